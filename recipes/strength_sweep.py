"""What the strength of guidance costs in fidelity to the prompt and in diversity."""

from __future__ import annotations

from dreamsim_guidance.comparisons.strength_sweep import StrengthSweep
from dreamsim_guidance.experiment.registry import recipe


@recipe
def strength_sweep() -> StrengthSweep:
    """Draw the trade-off of guidance: distance to the reference against fidelity to the words and diversity.

    Found with n=4 on the pocket latent model, MPGD from 0 to 0.1: distance 0.265 -> 0.103, fidelity 0.58 -> 0.59, diversity
    0.175 -> 0.156.
    """
    return StrengthSweep()


@recipe
def strength_sweep_tiny() -> StrengthSweep:
    """Sweep two strengths on a few images in seconds, of no use but for tests and for seeing a run folder."""
    return StrengthSweep(strengths=(0.0, 3.0), pairs=2, n=2, steps=4)
