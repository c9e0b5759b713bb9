"""Weights: the official releases, files of one model, and the Hugging Face Hub."""
