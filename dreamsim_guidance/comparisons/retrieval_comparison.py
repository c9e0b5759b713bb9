"""The nearest pictures by a texture network, by a semantic network and by this metric, side by side.

    page.html          for each query, the nearest pictures of the three networks; one file that needs nothing else
    sheet.png          the same for the first queries
    comparison.json    lists, distances, and how far the lists agree

FiftyOne's article on DreamSim compares reverse image search by such networks. The work is in `retrieval_comparison_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RetrievalComparison"]


@dataclass(frozen=True)
class RetrievalComparison:
    """The settings of a comparison of nearest pictures."""

    pictures: Path | None = None
    """Folder of the pictures among which to search, with the folders below; by default nine parts of each photograph that
    scikit-image installs."""
    index: Path | None = None
    """An index that `embed` made, instead of a folder: its metric and its embeddings are used. Pictures in shards and tables
    are written into the run's folder."""
    queries: Path | None = None
    """Folder of the queries; by default pictures evenly spread over those that are searched, each without itself."""
    count: int = 6
    """Number of queries, evenly spread over those that there are."""
    k: int = 7
    """Length of the lists."""
    texture: str = "gram"
    """gram: Gram matrices of the early layers of a network; or a named metric, such as st-lpips, lpips or dists."""
    semantic: str | None = None
    """A named metric, such as clip, open_clip or dino; by default photographs where the extra is installed, else pocket."""
    metric: str | None = None
    """This metric: a published variant, a model file or the folder of a training; by default the index's metric, or ensemble
    where its files are on this machine, else pocket."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    cache: bool = True
    """Keep embeddings in the user's cache folder, and use those that are there."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("count", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.pictures is not None and self.index is not None:
            raise ValueError("pictures and index both say where to search; give one of them.")
        if self.metric is not None and self.index is not None:
            raise ValueError("an index has a metric of its own; leave metric out, or give pictures.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write page, sheet and numbers; return the networks and how far their lists agree."""
        from dreamsim_guidance.comparisons.retrieval_comparison_run import (
            run,  # here, so that recipes need no torch
        )

        return run(self, folder)
