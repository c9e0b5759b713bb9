"""Guidance where the answer is known: closed-form posteriors, mixtures, and digits."""
