"""A comparison of all guidance methods on the pocket pixel model."""

from __future__ import annotations

from dreamsim_guidance.comparisons.method_comparison import GuideMethods
from dreamsim_guidance.experiment.registry import recipe


@recipe
def guide_methods() -> GuideMethods:
    """Compare all guidance methods on the pocket pixel model: 64 seeds for each of 8 held-out scenes.

    It takes hours on a CPU; with n=8, about an hour on one core that has other work. The results are in docs/results.md.
    """
    return GuideMethods()


@recipe
def guide_methods_tiny() -> GuideMethods:
    """Compare two methods on a few images in seconds, for tests and to see what a run folder holds."""
    return GuideMethods(methods=("mpgd", "dsg"), references=2, n=3, steps=4)
