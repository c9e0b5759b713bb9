"""Compare the guidance methods on the pocket pixel model, by the metric that guides and by others.

Every method starts from the same noise: image i of reference r has the same seed in each row, the unguided one included.
Methods that need a stochastic sampler (DSG) are compared with unguided samples of that sampler. The columns are means:

    distance       the guide's distance to the reference
    rms, 1 - ssim  other distances to the reference
    factors        share of the reference's known factors that an independent classifier finds in the sample
    frechet        distance of all samples to as many held-out scenes, on that classifier's features: quality
    diversity      distance of two samples of one reference, on the same features
    seconds        per image, on this machine
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.guidance.methods import METHODS

__all__ = ["GuideMethods"]


@dataclass(frozen=True)
class GuideMethods:
    """The settings of a comparison of methods."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Each as name, name:strength or name:strength:option=value:..., e.g. mpgd:3:cap=0.2; the rest are its defaults."""
    references: int = 8
    """Held-out scenes."""
    n: int = 64
    """Images for each reference."""
    steps: int = 50
    metric: str = "pocket"
    """The DreamSim that guides."""
    model: str = "pocket-pixels"
    """pocket-pixels, or the folder of another pipeline that makes pocket scenes without a prompt."""
    first: int = 0
    """Number of the first reference in the split of held-out scenes."""
    seed: int = 0
    batch: int = 64
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("references", "n", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.n * self.references < 2:
            raise ValueError("at least two images are needed for a Frechet distance.")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"every method once, got {', '.join(self.methods)}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Sample what is missing in `folder`; write table.md and methods.png; return the rows."""
        from dreamsim_guidance.comparisons.method_comparison_run import (
            compare_methods,  # recipes are listed without torch
        )

        return compare_methods(self, folder)
