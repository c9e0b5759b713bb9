"""A photograph inverted through one kind of generator: target, start, result and floor beside each other.

    sheet.png         the pictures, and the loss over the steps (of a trajectory: the residual of each step)
    inversion.json    the distances of every picture by what was optimised and by held-out judges; the loss over the steps
    target.png, start.png, result.png, floor.png
    result/           leaves, images and history, as `Inversion.save` writes them

An interrupted descent goes on from its checkpoint. The work is done in `inversion_sheet_run.py`; this file imports nothing
that takes long, since the command line shows its fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["InversionSheet"]


@dataclass(frozen=True)
class InversionSheet:
    """The settings of an inversion of one photograph."""

    through: Literal["pixels", "vae", "gan", "noise", "trajectory"] = "pixels"
    """What makes the picture: pixels (a pyramid); vae (the latents of an autoencoder); gan (codes of a StyleGAN); noise (the
    initial noise of a diffusion pipeline, by gradient); trajectory (that noise, by reversing the sampler)."""
    image: Path | None = None
    """The picture; by default the astronaut that scikit-image ships, and a drawn scene for the pocket models."""
    model: str = "pocket"
    """pocket (ships with the package), sd15, sdxl, sdxl-turbo, sd35, flux, a folder that save_pretrained wrote, the Hub's
    owner/name; of a GAN, a StyleGAN .pkl."""
    code: Path | None = None
    """Folder of NVIDIA's code, for a StyleGAN .pkl."""
    space: Literal["w", "w+", "z"] = "w+"
    """Codes of the GAN."""
    metric: str | None = None
    """The loss: photographs (real towers, from the extra; their maps are compared), pocket (shipped), ensemble, dino_vitb16,
    ... (published weights), or a model file (.safetensors). By default pocket for the pocket models, else photographs where the
    extra is installed."""
    held_out: bool = True
    """Leave the metric's last branch out of the loss and judge the result by it. A single branch is never left out."""
    mse: float | None = None
    """Weight of the mean squared error beside the metric; by default 1, and 0 for pixels."""
    tv: float | None = None
    """Weight of the total variation; by default 0, and for pixels 0.1, or 0.05 with maps."""
    size: int | None = None
    """Shorter side in pixels, of pixels and autoencoders; by default 64 for the pocket models and for pixels
    without maps, 224 for pixels with maps, else 512."""
    steps: int | None = None
    """Steps of the descent; by default 300, 150 for pixels with maps, and 50 for noise."""
    lr: float | None = None
    """Step size; by default what suits the generator."""
    search: int | None = None
    """Samples of the prior that are ranked first; by default 256 of a GAN and 16 of a pipeline's noise."""
    restarts: int = 4
    """How many of them descend at first; half of them are dropped again and again."""
    optimiser: Literal["adam", "lbfgs", "sgd"] = "adam"
    reno: bool = False
    """Use ReNO's settings for the noise of one-step models, in place of search, restarts, optimiser, lr and steps."""
    prompt: str = ""
    """What a pipeline is told that the picture shows."""
    sampler_steps: int | None = None
    """Steps of the sampler; by default the model's usual number, and 4 for noise."""
    cfg: float = 1.0
    """Scale of classifier-free guidance; 1 suits reconstruction."""
    animation: bool = False
    """Write the way there as animation.gif."""
    seed: int = 0
    """Seed of the start."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name, least in {"size": 1, "steps": 0, "search": 1, "restarts": 1, "sampler_steps": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        for name in ("mse", "tv", "lr", "cfg"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the sheet, the pictures and the numbers; return the distances."""
        from dreamsim_guidance.comparisons.inversion_sheet_run import make

        return make(self, folder)
