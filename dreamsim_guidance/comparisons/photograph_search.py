"""Real photographs, compared with each other and found again from another part of them.

    sheet.png       queries, each with the pictures that the metric finds nearest and their distances
    search.json     for every metric: how often the photograph of a query comes first, and its mean rank; all distances

The gallery holds the upper left three quarters (in each direction) of every photograph that scikit-image installs, the queries
are the mirrored lower right three quarters. The work is done in `photograph_search_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PhotographSearch"]


@dataclass(frozen=True)
class PhotographSearch:
    """The settings of a search among photographs."""

    metric: str | None = None
    """photographs (real towers, from the extra), pocket (shipped), ensemble, ... (published weights), or a model file. By
    default photographs where the extra is installed, else pocket."""
    shown: int = 4
    """Queries on the sheet, and pictures that are shown for each."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        if self.shown < 1:
            raise ValueError(f"shown must be at least 1, got {self.shown}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the sheet, the pictures and the numbers; return how often each metric finds the photograph."""
        from dreamsim_guidance.comparisons.photograph_search_run import search  # here, so that recipes need no torch

        return search(self, folder)
