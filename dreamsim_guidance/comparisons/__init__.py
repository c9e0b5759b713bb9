"""Comparisons of guided sampling: sheets, methods side by side, and sweeps of the strength."""
