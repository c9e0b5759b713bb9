"""An image as parameters: plain pixels, a Fourier spectrum, or a pyramid, so that gradients reach large structure too.

Independent pixels let an optimiser reach an embedding with noise that does not look like the picture. In the pyramid, level l
holds an image of side 4, 8, 16, ... up to the full size, and

    image = sigmoid(sum_l upsample(level_l))

Adam moves every coefficient by about its step size, so that a coefficient of side 4 moves a large area at once: low
frequencies arrive first, as in the 1/f spectrum of photographs. The Fourier spectrum does the same with waves:

    image = sigmoid(irfft2(coefficient / max(f, 1 / max(h, w))) / c),      c: the root mean square of all waves together

Olah, Mordvintsev, Schubert, Feature Visualization, Distill 2017 (preconditioning; their colours are decorrelated, these not).
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.types import Image

__all__ = ["Pixels"]


class Pixels(nn.Module):
    """Images as parameters: calling the module gives `(batch, 3, height, width)` in (0, 1), at first grey noise.

    As the generator of `invert`, its parameters are the start and are not changed. A total variation keeps the result free
    of noise: `loss + 0.02 * TotalVariation()`.

    height, width: size of the images in pixels; a square by default.
    batch: number of images.
    coarsest: shorter side of the pyramid's first level; with `min(height, width)` there is one level, plain pixels.
    noise: standard deviation of each level at the start, before the sigmoid; 1 is about a quarter of the range.
    generator: decides the noise, by default torch's global generator.
    kind: "pyramid"; "plain", one parameter for each pixel; or "fourier", two for each wave.

    Raises ValueError for numbers below 1 and unknown kinds. Parameters are float32.
    """

    decay: Tensor
    lr = 0.05
    """Step size of Adam that suits the parameters."""

    def __init__(
        self,
        height: int,
        width: int | None = None,
        batch: int = 1,
        coarsest: int = 4,
        noise: float = 0.3,
        generator: torch.Generator | None = None,
        kind: Literal["pyramid", "plain", "fourier"] = "pyramid",
    ) -> None:
        super().__init__()
        width = height if width is None else width
        if min(height, width, batch, coarsest) < 1:
            raise ValueError(
                f"height, width, batch and coarsest must be at least 1, got {height, width, batch, coarsest}."
            )
        if kind not in ("pyramid", "plain", "fourier"):
            raise ValueError(f"unknown kind of pixels '{kind}'; known: pyramid, plain, fourier.")
        self.size, self.kind = (height, width), kind
        shapes: list[tuple[int, ...]] = [(height, width)]
        if kind == "pyramid":
            shapes = [*_sizes(height, width, coarsest)]
        elif kind == "fourier":
            shapes = [(height, width // 2 + 1, 2)]
            self.register_buffer("decay", _decay(height, width), persistent=False)
        self.levels = nn.ParameterList(
            nn.Parameter(noise * torch.randn(batch, 3, *shape, generator=generator, dtype=torch.float32))
            for shape in shapes
        )

    @property
    def init(self) -> dict[str, Tensor]:
        """Where `invert` starts: the parameters by name."""
        return dict(self.named_parameters())

    def forward(self, **levels: Tensor) -> Image:
        """The images of these levels, named as in `init`; of the module's own by default."""
        *coarse, finest = levels.values() if levels else self.levels
        if self.kind == "fourier":
            return torch.fft.irfft2(torch.view_as_complex(finest) * self.decay, self.size, norm="ortho").sigmoid()
        enlarged = [F.interpolate(level, self.size, mode="bilinear", align_corners=False) for level in coarse]
        return functools.reduce(torch.add, [*enlarged, finest]).sigmoid()


def _decay(height: int, width: int) -> Tensor:
    """The weight of each wave, 1 / f up to a factor that gives noise of deviation 1 the same deviation as an image."""
    f = (torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width)[None].square()).sqrt()
    decay = 1 / f.clamp_min(1 / max(height, width))
    return (decay / (2 * decay.square().mean()).sqrt()).float()


def _sizes(height: int, width: int, coarsest: int) -> list[tuple[int, int]]:
    """Sizes of the image's aspect ratio, each twice the one before; the last one is the image's own."""
    shorter = min(height, width)
    count = max(0, math.ceil(math.log2(shorter / coarsest)))
    scales = [coarsest * 2**level / shorter for level in range(count)]
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales] + [(height, width)]
