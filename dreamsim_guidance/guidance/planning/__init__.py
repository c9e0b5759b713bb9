"""Prediction of what guidance costs, from shapes, before anything is run."""
