"""An image as the sum of a multi-resolution pyramid, so that its gradient reaches large and small structure alike.

Independent pixels let an optimiser reach an embedding with noise that does not look like the picture. Here level l
holds an image of side 4, 8, 16, ... up to the full size, and

    image = sigmoid(sum_l upsample(level_l))

Adam moves every coefficient by about its step size, so that a coefficient of side 4 moves a large area at once: low
frequencies arrive first, as in the 1/f spectrum of photographs.

Olah, Mordvintsev, Schubert, Feature Visualization, Distill 2017 (preconditioning); here bilinear instead of Fourier.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from dreamsim_guidance.types import Image

__all__ = ["Pixels"]


class Pixels(nn.Module):
    """Images as parameters: calling the module gives `(batch, 3, height, width)` in (0, 1), at first grey noise.

    height, width: size of the images in pixels; a square by default.
    batch: number of images.
    coarsest: shorter side of the first level; with `min(height, width)` there is one level, plain pixels.
    noise: standard deviation of each level at the start, before the sigmoid; 1 is about a quarter of the range.
    generator: decides the noise, by default torch's global generator.

    Raises ValueError for numbers below 1. Parameters are float32.
    """

    def __init__(
        self,
        height: int,
        width: int | None = None,
        batch: int = 1,
        coarsest: int = 4,
        noise: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        width = height if width is None else width
        if min(height, width, batch, coarsest) < 1:
            raise ValueError(
                f"height, width, batch and coarsest must be at least 1, got {height, width, batch, coarsest}."
            )
        self.size = (height, width)
        self.levels = nn.ParameterList(
            nn.Parameter(noise * torch.randn(batch, 3, *size, generator=generator, dtype=torch.float32))
            for size in _sizes(height, width, coarsest)
        )

    def forward(self) -> Image:
        *coarse, finest = self.levels
        enlarged = [F.interpolate(level, self.size, mode="bilinear", align_corners=False) for level in coarse]
        return functools.reduce(torch.add, [*enlarged, finest]).sigmoid()


def _sizes(height: int, width: int, coarsest: int) -> list[tuple[int, int]]:
    """Sizes of the image's aspect ratio, each twice the one before; the last one is the image's own."""
    shorter = min(height, width)
    count = max(0, math.ceil(math.log2(shorter / coarsest)))
    scales = [coarsest * 2**level / shorter for level in range(count)]
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales] + [(height, width)]
