"""Procedural scenes with known factors, their pictures and captions, and triplets of them."""
