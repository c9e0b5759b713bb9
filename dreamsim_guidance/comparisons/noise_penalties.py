"""Which penalty keeps the optimisation of a diffusion model's noise honest: none, on the noise, on the image, or both.

Prompt and reward contradict each other, as in the sweep of strengths: the prompt is the caption of a scene, the reward the
similarity to the picture of another scene, according to all towers of the metric but the last. An optimiser can raise it by
what the model would never draw, and what the last tower and a classifier of scenes do not see. Every penalty starts from the
same noises.

    distance            what is optimised: the distance to the reference without the last tower
    last tower          the same by the tower that took no part
    1 - SSIM            to the reference
    reference factors   share of the reference's factors that the classifier finds in the images
    prompt factors      share of the caption's factors that it finds
    frechet             distance of the images to pictures of held-out scenes, on the classifier's features
    denoising error     of the diffusion model itself at other noise levels and draws than those of the penalty
    length              of the noise, relative to sqrt(d)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PENALTIES", "NoisePenalties"]

PENALTIES = ("none", "noise", "image", "both")


@dataclass(frozen=True)
class NoisePenalties:
    """The settings of the comparison; it runs on the pocket latent model."""

    penalties: tuple[str, ...] = PENALTIES
    pairs: int = 6
    """Pairs of a caption and a reference, over which intervals are taken."""
    seeds: int = 3
    """Initial noises of each pair."""
    steps: int = 25
    """Steps of Adam."""
    lr: float = 0.1
    sampling_steps: int = 4
    """Steps of the diffusion model's sampler, without classifier-free guidance."""
    norm: float = 0.01
    """Weight of the penalty on the length of the noise; that of ReNO by default."""
    image: float = 0.3
    """Weight of the denoising error of the image."""
    levels: tuple[float, ...] = (0.4,)
    """Noise levels of the denoising error."""
    pictures: int = 256
    """Pictures of held-out scenes for the Frechet distance."""
    first: int = 0
    """Number of the first scene in the split of held-out scenes."""
    seed: int = 0
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name, least in (("pairs", 2), ("seeds", 1), ("steps", 1), ("sampling_steps", 1), ("pictures", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("lr", "norm", "image"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")
        unknown = [name for name in self.penalties if name not in PENALTIES]
        if unknown or not self.penalties or len(set(self.penalties)) < len(self.penalties):
            raise ValueError(f"penalties must be different ones of {', '.join(PENALTIES)}, got {self.penalties}.")
        if not self.levels or not all(0 < level < 1 for level in self.levels):
            raise ValueError(f"levels must be one or more numbers between 0 and 1, got {self.levels}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Optimise what is missing in `folder`; write table.md, table.json and samples.png; return the rows."""
        from dreamsim_guidance.comparisons.noise_penalties_run import (
            compare,  # so that recipes are listed without torch
        )

        return compare(self, folder)
