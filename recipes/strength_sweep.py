"""The price of guidance in fidelity to the prompt and in diversity, by strength."""

from __future__ import annotations

from dreamsim_guidance.comparisons.strength_sweep import StrengthSweep
from dreamsim_guidance.experiment.registry import recipe


@recipe
def strength_sweep() -> StrengthSweep:
    """Draw the trade-off of guidance: distance to the reference against fidelity to the prompt and diversity.

    With n=4 on the pocket latent model, MPGD of strength 0.1 changes the distance from 0.265 to 0.103, fidelity from 0.58 to
    0.59, and diversity from 0.175 to 0.156.
    """
    return StrengthSweep()


@recipe
def strength_sweep_tiny() -> StrengthSweep:
    """Sweep two strengths on a few images in seconds, for tests and to see what a run folder holds."""
    return StrengthSweep(strengths=(0.0, 3.0), pairs=2, n=2, steps=4)
