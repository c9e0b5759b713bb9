"""Readers of published sets of human judgments, one set per file."""
