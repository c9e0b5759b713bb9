"""Random views of training pictures, one for each distinct picture of a batch, by kornia."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dreamsim_guidance.types import Image

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """What people's answers should not depend on: mirroring, a crop, a small turn, exposure, colour, blur.

    The original trains without any. Random numbers are torch's global ones, which the loop seeds at every step.
    """

    flip: float = 0.5
    """Chance of a mirror image."""
    crop: float = 0.7
    """Smallest share of the area that is kept."""
    degrees: float = 0.0
    """Turned by at most so much, either way."""
    brightness: float = 0.0
    """Multiplied by a factor between 1 - brightness and 1 + brightness; contrast and saturation alike."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Turned by at most so many cycles (0.5 is the opposite colour)."""
    blur: float = 0.0
    """Chance of a Gaussian blur of 3 x 3 pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop is a share of the area above 0 and up to 1, got {self.crop}.")
        for name in ("flip", "blur", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
        if not 0 <= self.hue <= 0.5 or self.degrees < 0:
            raise ValueError(
                f"hue must lie between 0 and 0.5, degrees not be negative, got {self.hue}, {self.degrees}."
            )

    def __call__(self, images: Image) -> Image:
        return _pipeline(self, images.shape[-1])(images).clamp(0, 1)


@functools.lru_cache(maxsize=8)
def _pipeline(chosen: Augmentation, size: int) -> nn.Module:
    import kornia.augmentation as K  # here, as torch is, so that recipes are listed without them
    from torch import nn

    parts: list[Any] = []
    if chosen.crop < 1:
        parts.append(K.RandomResizedCrop((size, size), scale=(chosen.crop, 1.0), ratio=(0.9, 1.1)))
    if chosen.flip:
        parts.append(K.RandomHorizontalFlip(p=chosen.flip))
    if chosen.degrees:
        parts.append(K.RandomAffine(chosen.degrees, p=1.0, padding_mode="reflection"))
    colour = (chosen.brightness, chosen.contrast, chosen.saturation, chosen.hue)
    if any(colour):
        parts.append(K.ColorJitter(*colour, p=1.0))
    if chosen.blur:
        parts.append(K.RandomGaussianBlur((3, 3), (0.3, 1.5), p=chosen.blur))
    return K.AugmentationSequential(*parts, data_keys=["input"]) if parts else nn.Identity()
