"""Whether a metric that is hard to fool guides better: pictures of equal success by the guide, judged by others.

Every guide brings pictures nearer to references by its own distance, at several levels: strengths of guidance of the pocket
pixel model, or steps of an image's own pixels, where no generator keeps the picture natural. With D the mean distance and D_0
that without guidance,

    drop = 1 - D / D_0

and all columns are read, by linear interpolation between levels, where the guide's own drop has a given value:

    judge      drop of the distance by the features of a classifier that took no part (`evaluation.samples.scene_judge`)
    gap        the guide's drop less the judge's: the share of the improvement that the guide alone sees
    rms        drop of the root mean square difference of pixels
    factors    share of the reference's factors that the classifier finds in the picture
    frechet    distance of all pictures to drawn scenes, on the classifier's features
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["RobustGuides"]


@dataclass(frozen=True)
class RobustGuides:
    """The settings of the comparison."""

    guides: tuple[str, ...] = ("pocket", "pocket_robust")
    """Names or files of DreamSim; the others are compared with the first."""
    views: int = 8
    """The first guide also runs with its gradient averaged over so many random views; 1 leaves that run out."""
    through: Literal["diffusion", "pixels"] = "diffusion"
    levels: tuple[float, ...] = (0.002, 0.006, 0.02, 0.06, 0.2)
    """Strengths of MPGD, or numbers of steps of pixels; ascending."""
    drops: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Drops of the guide's distance at which the guides are compared."""
    references: int = 12
    """Held-out scenes."""
    n: int = 2
    """Images for each reference."""
    steps: int = 20
    """Of the sampler."""
    size: int = 64
    """Side of the references and of optimised pixels."""
    resamples: int = 1000
    """Of the references, for the intervals."""
    seed: int = 0
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name, least in (("references", 2), ("n", 1), ("steps", 1), ("views", 1), ("size", 8), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not self.guides or len(set(self.guides)) < len(self.guides):
            raise ValueError(f"guides must be one or more different metrics, got {self.guides}.")
        ascending = all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or not ascending or not 0 < self.levels[0] <= self.levels[-1] < math.inf:
            raise ValueError(f"levels must be positive numbers in ascending order, got {self.levels}.")
        if self.through == "pixels" and any(level != int(level) for level in self.levels):
            raise ValueError(f"levels of pixels are whole numbers of steps, got {self.levels}.")
        if not self.drops or not all(0 < drop < 1 for drop in self.drops):
            raise ValueError(f"drops must lie between 0 and 1, got {self.drops}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Make what is missing in `folder`; write table.md and samples.png; return rows, differences and curves."""
        from dreamsim_guidance.comparisons.robust_guides_run import compare_guides  # so that recipes list without torch

        return compare_guides(self, folder)
