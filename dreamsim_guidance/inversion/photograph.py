"""Reconstruct a photograph from noise, by the gradient of the metric with respect to the pixels.

    min_x  mean_k d(crop_k x, crop_k photo) + tv TV(x)

One embedding does not determine an image: very different pictures share it. The embeddings of the whole image and of its
parts do, so the picture and its overlapping crops are compared with the same parts of the photograph, some of them at each
step. The distance that is minimised becomes small in any case; whether the picture looks alike is judged by what was not
minimised: a branch of the metric that was left out, SSIM and mse.
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
    metric: str = "pocket"
    """pocket (shipped), ensemble, dino_vitb16, ... (published weights), or a model file (.safetensors)."""
    held_out: bool = True
    """Leave the metric's last branch out of the loss and judge the result by it. A single branch is never left out."""
    size: int = 64
    """Shorter side of the reconstruction, in pixels."""
    steps: int = 300
    """Steps of Adam."""
    lr: float = 0.05
    """Step size of Adam at the start; it falls to 0 along a cosine."""
    grids: tuple[int, ...] = (1, 2, 4, 8, 16)
    """The parts that are compared: n x n overlapping crops for each n, where 1 is the whole picture."""
    draw: int = 32
    """How many of the parts each step compares: the first (the whole, if `grids` begins with 1) and random others."""
    tv: float = 0.1
    """Weight of the total variation."""
    noise: float = 0.3
    """Standard deviation of the noise at the start, on every level of the pyramid (`Pixels`)."""
    seed: int = 0
    """Seed of the noise and of the choice of parts."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("size", "steps", "draw"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.grids or min(self.grids) < 1:
            raise ValueError(f"grids must be one or more numbers of at least 1, got {self.grids}.")
        for name in ("lr", "tv", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write reconstruction.png, reconstruction.json, target.png and result.png; return the numbers."""
        from dreamsim_guidance.inversion.photograph_run import reconstruct  # here, so that recipes need no torch

        return reconstruct(self, folder)
