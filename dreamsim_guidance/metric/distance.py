"""The distance of two embeddings, and what masks leave of an image.

    u = e / |e|,   d = |u - v|^2 / 2

Half the squared chord between two unit vectors is the same number as 1 - cos(e, f), in [0, 2]; but it is never negative,
it is exact near zero, where float32 `1 - cos` is all rounding, and its gradient at identical embeddings is zero and finite.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamsim_guidance.preprocess import check_range
from dreamsim_guidance.tracing import recording, values_unknown

__all__ = ["centre", "check_batches", "half_chord", "mask_out", "unit"]

_FILL = (0.485, 0.456, 0.406)
"""The colour of masked pixels: ImageNet's mean, which the usual normalisation maps to zero."""


def half_chord(a: Tensor, b: Tensor) -> Tensor:
    """Half the squared distance of unit vectors along the last dimension, in [0, 2]."""
    return 0.5 * (a - b).square().sum(-1)


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """The vectors along `dim`, scaled to length one; a zero vector stays zero and has a finite gradient."""
    # the epsilon is under the root: the gradient stays finite for a constant embedding, whose centred length is zero
    return x / (x.square().sum(dim, keepdim=True) + 1e-24).sqrt()


def centre(x: Tensor) -> Tensor:
    """The vectors of the last dimension, less the mean of their entries."""
    return x - x.mean(-1, keepdim=True)


def check_batches(x: Tensor, y: Tensor) -> None:
    """Raise ValueError unless both batches have one size, or one of them holds a single image."""
    if x.shape[0] != y.shape[0] and 1 not in (x.shape[0], y.shape[0]):
        raise ValueError(
            f"x and y must have one batch size, got {x.shape[0]} and {y.shape[0]}; pass equal numbers, or one image on "
            "one side."
        )


def mask_out(images: Tensor, mask: Tensor | None) -> Tensor:
    """`images` with the pixels that the mask leaves out replaced by one colour, at the images' own resolution.

    images: `(b, 3, h, w)` in [0, 1].
    mask: `(1 or b, 1, h2, w2)` in [0, 1], resized if need be; 1 counts, 0 is left out. None changes nothing.

    Raises TypeError or ValueError for a mask of another shape, device or range, and for one that leaves out every pixel; the
    values are checked on the CPU only, where reading them costs nothing.
    """
    if mask is None:
        return images
    if not isinstance(mask, Tensor):
        raise TypeError(f"a mask must be a tensor of shape (1 or b, 1, h, w), got {type(mask).__name__}.")
    if (
        mask.ndim != 4
        or mask.shape[1] != 1
        or 0 in mask.shape
        or (mask.shape[0] not in (1, images.shape[0]) and images.shape[0] != 1)
    ):
        raise ValueError(
            f"a mask must have shape (1 or {images.shape[0]}, 1, h, w), got {tuple(mask.shape)}; 1 counts, 0 is left out."
        )
    if mask.device != images.device:
        raise ValueError(
            f"mask and images must be on one device, got {mask.device} and {images.device}; move the mask."
        )
    mask = mask.to(images.dtype)
    if mask.device.type == "cpu" and not (values_unknown() or recording.active):
        check_range(mask, "the mask")
        if not bool(mask.flatten(1).any(1).all()):
            raise ValueError("the mask leaves out every pixel of an image; 1 counts, 0 is left out.")
    if mask.shape[-2:] != images.shape[-2:]:
        # in float32: the CPU has no antialiasing in half precision
        mask = F.interpolate(
            mask.to(torch.promote_types(mask.dtype, torch.float32)), images.shape[-2:], mode="bilinear", antialias=True
        )
        mask = mask.to(images.dtype)
    fill = torch.stack([torch.full_like(mask[:, 0], value) for value in _FILL], dim=1)
    return images * mask + fill * (1 - mask)
