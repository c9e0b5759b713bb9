"""Guidance methods, one paper per file."""
