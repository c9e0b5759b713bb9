"""Recipes and their runs: the registry, the runner, run folders, and fields on the command line."""
