"""Real photographs, compared and found again."""

from __future__ import annotations

from dreamsim_guidance.comparisons.photograph_search import PhotographSearch
from dreamsim_guidance.experiment.registry import recipe


@recipe
def search_photographs() -> PhotographSearch:
    """Find photographs again from another, mirrored part of them, and draw the nearest pictures of each query."""
    return PhotographSearch()
