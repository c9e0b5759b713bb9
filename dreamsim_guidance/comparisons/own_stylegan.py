"""Reconstruct photographs through your own StyleGAN, and tune its weights around the codes that were found."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["InvertStyleGAN"]


@dataclass(frozen=True)
class InvertStyleGAN:
    """The settings of an inversion through a StyleGAN, `tuning` steps of pivotal tuning included."""

    photos: tuple[Path, ...] = ()
    """Photographs, resized to the size of the network's images: frame them as its training images are framed."""
    network: Path | None = None
    """A file of StyleGAN2-ADA or StyleGAN3; without one, the pocket GAN."""
    code: Path | None = None
    """Your checkout of the repository that wrote the file; NVIDIA's code and weights are for non-commercial use."""
    space: Literal["z", "w", "w+"] = "w+"
    noise: bool = True
    """Whether the noise of the layers is optimised too, where the network has any."""
    label: int | None = None
    """Class of the photographs, for conditional networks."""
    metric: str = "pocket"
    """The DreamSim that is optimised."""
    mse: float = 1.0
    """Weight of the mean squared error beside it."""
    steps: int = 400
    tuning: int = 0
    """Steps of pivotal tuning afterwards, of all photographs together."""
    regularise: float = 0.1
    """Weight of the term that keeps other images as they were in the tuning."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.network is None) != (self.code is None):
            raise ValueError(
                "a network's file needs code=FOLDER, your checkout of NVIDIA's code, and the other way round."
            )
        if self.steps < 1 or self.tuning < 0 or not 0 <= self.mse < math.inf or not 0 <= self.regularise < math.inf:
            raise ValueError(
                "steps must be at least 1, tuning, mse and regularise at least 0, got "
                f"{self.steps}, {self.tuning}, {self.mse}, {self.regularise}."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Write inversion/ (`Inversion.save`), sheet.png and, of a tuning, tuned.safetensors; return losses and 1 - SSIM."""
        from dreamsim_guidance.comparisons.own_stylegan_run import (
            reconstruct,
        )  # so that recipes are listed without torch

        return reconstruct(self, folder)
