"""Latents of an autoencoder that reproduce photographs, found by several losses from two starts.

    min_z  loss(decode(z)),      from z = encode(photograph), and from the centre of the prior

The round trip decode(encode(x)) is the floor that is printed beside the results: what the autoencoder gives without any
optimisation. An encoder is trained for all pictures at once; latents that are fitted to one picture usually do better.
Each loss is judged by what took no part in it: DreamSim is optimised without its last branch, which judges all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LOSSES", "STARTS", "InvertVAE"]

LOSSES = ("mse", "dreamsim", "mse + dreamsim", "lpips")
STARTS = ("encoder", "zero")


@dataclass(frozen=True)
class InvertVAE:
    """The settings of a comparison."""

    model: str
    """The autoencoder: a name on the Hugging Face Hub or a folder, in diffusers' format; or a folder with the two files of a
    tiny autoencoder, such as taef2_encoder.pth and taef2_decoder.pth."""
    subfolder: str | None = None
    """Folder of the autoencoder within `model`, such as "vae" for a whole pipeline."""
    images: tuple[Path, ...] = ()
    """Photographs; by default two of those that scikit-image ships, the astronaut and the cat."""
    metric: str = "ensemble"
    """The DreamSim that is optimised, without its last branch: ensemble (published weights), photographs (the maps of real
    towers, from the extra), pocket, or a model file."""
    lpips_weights: Path | None = None
    """Weights of shift-tolerant LPIPS, alex_shift_tolerant.pth or the wheel of stlpips-pytorch 0.0.2; by default those that the
    extra `losses` installs. Without them LPIPS is neither optimised nor a judge."""
    losses: tuple[str, ...] = LOSSES
    """What is optimised, of mse, dreamsim, mse + dreamsim, lpips; DreamSim compares maps, or the whole picture and its
    quarters."""
    starts: tuple[str, ...] = STARTS
    """encoder: the picture's own latents; zero: the centre of the prior."""
    dreamsim: float = 0.03
    """Weight of DreamSim in "mse + dreamsim"."""
    size: int = 256
    """Width and height of the pictures in pixels: their central squares are resized."""
    steps: int = 200
    """Steps of Adam."""
    lr: float = 0.1
    """Step size in units of the prior's scale."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name, known in (("losses", LOSSES), ("starts", STARTS)):
            chosen = getattr(self, name)
            if unknown := [value for value in chosen if value not in known] or (not chosen and ["nothing"]):
                raise ValueError(f"unknown {name} '{unknown[0]}'; known: {', '.join(known)}.")
        if self.size < 1 or self.steps < 1:
            raise ValueError(f"size and steps must be at least 1, got {self.size} and {self.steps}.")
        if not 0 < self.lr < math.inf or not 0 < self.dreamsim < math.inf:
            raise ValueError(f"lr and dreamsim must be positive numbers, got {self.lr} and {self.dreamsim}.")
        if Path(self.model).exists():  # the run can be resumed from anywhere
            object.__setattr__(self, "model", str(Path(self.model).absolute()))

    def run(self, folder: Path) -> dict[str, Any]:
        """Optimise what `folder` does not hold yet; write table.md and sheet.png; return the rows.

        The result of each loss and start, with its latents, is in a folder of its own, see `Inversion.save`.
        """
        from dreamsim_guidance.inversion.autoencoder_run import invert_vae  # here, so that recipes need no torch

        return invert_vae(self, folder)
