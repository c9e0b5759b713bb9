"""Procedural scenes with known factors, their captions, and triplets of them."""
