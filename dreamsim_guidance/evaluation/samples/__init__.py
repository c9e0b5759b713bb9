"""Quality of generated samples: the scene judge, factor agreement, Frechet distance, contact sheets."""
