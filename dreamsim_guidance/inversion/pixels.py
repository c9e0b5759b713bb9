"""An image as the sum of a multi-resolution pyramid, so that its gradient reaches large and small structure alike.

Independent pixels let an optimiser satisfy an embedding with noise that no one sees as the picture. Here level l holds
an image of side 4, 8, 16, ... up to the full size, and

    image = sigmoid(sum_l upsample(level_l))

Adam moves every coefficient by about its step size, so that a coefficient of side 4 moves a large area at once: low
frequencies arrive first, as in the 1/f spectrum of photographs.

Olah, Mordvintsev, Schubert, Feature Visualization, Distill 2017 (preconditioning); here bilinear instead of Fourier.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.types import Image

__all__ = ["Pixels"]


class Pixels(nn.Module):
    """`batch` images of `(height, width)` in (0, 1), starting from grey noise; calling it gives `(b, 3, h, w)`.

    `noise` is the standard deviation of each level's start before the sigmoid, where 1 is about a quarter of the range.
    `coarsest` is the shorter side of the first level; `coarsest=min(height, width)` is one level: plain pixels.
    The start depends on the generator alone.
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
            nn.Parameter(noise * torch.randn(batch, 3, *size, generator=generator))
            for size in _sizes(height, width, coarsest)
        )

    def forward(self) -> Image:
        total: Tensor | float = 0.0
        for level in self.levels:
            full = tuple(level.shape[-2:]) == self.size
            total = total + (level if full else F.interpolate(level, self.size, mode="bilinear", align_corners=False))
        assert isinstance(total, Tensor)
        return total.sigmoid()


def _sizes(height: int, width: int, coarsest: int) -> list[tuple[int, int]]:
    """Doubling sizes of the image's aspect, the last one being its own."""
    shorter = min(height, width)
    count = max(0, math.ceil(math.log2(shorter / coarsest)))
    scales = [coarsest * 2**level / shorter for level in range(count)]
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales] + [(height, width)]
