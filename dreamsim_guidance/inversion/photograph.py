"""Reconstruct a photograph from noise, by the gradient of the metric with respect to the pixels.

    min_x  mean_k d(view_k x, view_k photo) + tv TV(x)

One embedding does not determine an image: very different pictures share it. Real towers ("photographs") are therefore
compared by the maps of their stages, under small shifts; a metric without maps by the embeddings of the whole image and of
its overlapping crops, some of them at each step. The distance that is minimised becomes small in any case; whether the
picture looks alike is judged by what was not minimised: a branch of the metric that was left out, ST-LPIPS where it is
installed, SSIM and mse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Reconstruction"]


@dataclass(frozen=True)
class Reconstruction:
    """The settings of a reconstruction."""

    image: Path | None = None
    """The photograph; by default the astronaut that scikit-image ships, on which the pocket models were not trained."""
    metric: str | None = None
    """photographs (real towers, from the extra), pocket (shipped), ensemble, dino_vitb16, ... (published weights), or a model
    file (.safetensors). By default photographs where the extra is installed, else pocket."""
    held_out: bool = True
    """Leave the metric's last branch out of the loss and judge the result by it. A single branch is never left out."""
    size: int | None = None
    """Shorter side of the reconstruction, in pixels; by default 224 with maps, else 64."""
    steps: int | None = None
    """Steps of Adam; by default 150 with maps, else 300."""
    lr: float = 0.05
    """Step size of Adam at the start; it falls to 0 along a cosine."""
    grids: tuple[int, ...] = (1, 2, 4, 8, 16)
    """The parts that are compared, of a metric without maps: n x n overlapping crops for each n; 1 is the whole picture."""
    draw: int = 32
    """How many of the parts each step compares: the first (the whole, if `grids` begins with 1) and random others."""
    tv: float | None = None
    """Weight of the total variation; by default 0.05 with maps, else 0.1."""
    noise: float = 0.3
    """Standard deviation of the noise at the start, on every level of the pyramid (`Pixels`)."""
    seed: int = 0
    """Seed of the noise and of the choice of parts."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("size", "steps", "draw"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not self.grids or min(self.grids) < 1:
            raise ValueError(f"grids must be one or more numbers of at least 1, got {self.grids}.")
        for name in ("lr", "tv", "noise"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write reconstruction.png, reconstruction.json, target.png and result.png; return the numbers."""
        from dreamsim_guidance.inversion.photograph_run import reconstruct  # here, so that recipes need no torch

        return reconstruct(self, folder)
