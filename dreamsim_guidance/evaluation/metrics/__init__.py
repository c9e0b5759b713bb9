"""Metrics by name, as `evaluate` selects them: DreamSim, baselines, and users' own functions."""
