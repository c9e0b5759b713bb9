"""How good generated samples are: scene judge, factor agreement, Frechet distance, contact sheets."""
