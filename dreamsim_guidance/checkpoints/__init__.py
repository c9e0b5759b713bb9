"""Weights: the official releases, model files of this library, and the Hugging Face Hub."""
