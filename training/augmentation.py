"""Random changes of training pictures, drawn for each distinct picture of a batch, by kornia."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dreamsim_guidance.types import Image

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Changes on which people's answers should not depend: mirroring, cropping, rotation, exposure, colour, blur.

    The original trains without augmentation. Call it with images `(b, 3, s, s)` in [0, 1]; it returns images of that shape
    in [0, 1]. Random numbers come from the generator that is passed, by default torch's global one, which the training loop
    seeds at every step.
    """

    flip: float = 0.5
    """Probability of a mirror image."""
    crop: float = 0.7
    """Smallest share of the area that a crop keeps, above 0 and up to 1; 1 crops nothing."""
    degrees: float = 0.0
    """Largest angle of rotation in either direction."""
    brightness: float = 0.0
    """Brightness is multiplied by a factor between 1 - brightness and 1 + brightness; contrast and saturation alike."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Largest rotation of the hue in either direction, in cycles: 0.5 is the opposite colour."""
    blur: float = 0.0
    """Probability of a Gaussian blur over 3 x 3 pixels."""

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

    def __call__(self, images: Image, generator: torch.Generator | None = None) -> Image:
        """A random view of each image, of the same size, in [0, 1]; `generator` by default torch's global one."""
        import torch  # here, as kornia is, so that recipes are listed without them

        from dreamsim_guidance.views import random_view

        chain = _chain(self, images.shape[-1])
        return random_view(chain, images, generator or torch.default_generator).clamp(0, 1)


@functools.lru_cache(maxsize=8)
def _chain(augmentation: Augmentation, size: int) -> nn.Module:
    from dreamsim_guidance.views import RandomChanges

    changes = RandomChanges(
        crop=(augmentation.crop, 1.0) if augmentation.crop < 1 else None,
        ratio=(0.9, 1.1),
        flip=augmentation.flip,
        degrees=augmentation.degrees,
        colour=(augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue),
        blur=augmentation.blur,
    )
    return changes.chain((size, size))
