"""Metrics by name, as `evaluate` judges them: DreamSim, baselines, and functions of one's own."""
