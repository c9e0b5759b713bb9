"""A metric without one of its branches, which then judges what the others optimised."""

from __future__ import annotations

from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble

__all__ = ["without_last_branch"]


def without_last_branch(metric: DreamSim) -> tuple[DreamSim, DreamSim | None]:
    """The metric without its last branch, and that branch alone, both with the metric's own weights.

    A metric of one branch, or with a head, is not split: the second is None.
    """
    metric.fold().ensemble.unstack()
    branches = list(metric.ensemble.branches)
    if len(branches) == 1 or metric.ensemble.head is not None:
        return metric, None
    first, last = (DreamSim(Ensemble(part), stacked=False) for part in (branches[:-1], branches[-1:]))  # type: ignore[arg-type]
    return first, last
