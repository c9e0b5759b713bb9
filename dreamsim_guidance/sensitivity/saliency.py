"""The foreground of a picture where no mask is given: what stands out from the colours at its border.

    s(p) = min over the border's colours c_k of |Lab(p) - c_k|,   foreground where s, smoothed, exceeds Otsu's threshold

c_k are the median colours along the four sides of the picture, in strips of a twentieth of the shorter side; the smoothing has
a standard deviation of a hundredth of it. It is meant for objects on plain ground. For photographs of cluttered scenes give
masks, or a saliency model of your own.

Otsu, A threshold selection method from gray-level histograms, IEEE TSMC 1979.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from dreamsim_guidance.types import Image

__all__ = ["Saliency", "border_contrast", "foreground"]

Saliency = Callable[[Image], Any]
"""From a picture `(1, 3, h, w)` in [0, 1] to how salient each pixel is, `(h, w)` in [0, 1]; above 1/2 is foreground."""


def foreground(saliency: Saliency, image: Image) -> NDArray[np.bool_]:
    """The foreground `(h, w)` that a saliency function finds.

    Raises ValueError, which says what the function must take and return, if it fails or returns another shape or range.
    """
    name, size = getattr(saliency, "__name__", type(saliency).__name__), tuple(image.shape[-2:])
    try:
        with torch.no_grad():
            values = saliency(image)
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except Exception as error:  # a user's function may raise anything
        raise ValueError(_refusal(name, f"failed with {type(error).__name__}: {error}")) from error
    if array.dtype.kind not in "bfiu":
        raise ValueError(_refusal(name, f"returned {type(values).__name__}"))
    array = array.reshape(array.shape[-2:]) if array.ndim > 2 and array.size == np.prod(array.shape[-2:]) else array
    if array.shape != size:
        raise ValueError(_refusal(name, f"returned an array {array.shape} for a picture {tuple(image.shape)}"))
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(_refusal(name, f"returned numbers in [{array.min():.2f}, {array.max():.2f}]"))
    return array > 0.5


def _refusal(name: str, happened: str) -> str:
    return (
        f"the saliency function '{name}' {happened}; it must take one picture, a tensor (1, 3, h, w) in [0, 1], and return "
        "how salient each pixel is, (h, w) in [0, 1]."
    )


def border_contrast(image: Image) -> NDArray[np.bool_]:
    """The default saliency: the pixels whose colour differs from those at the picture's border, `(h, w)`."""
    from skimage.color import rgb2lab
    from skimage.filters import threshold_otsu

    lab = rgb2lab(image[0].permute(1, 2, 0).double().numpy())
    shorter = min(lab.shape[:2])
    width = max(1, shorter // 20)
    sides = (lab[:width], lab[-width:], lab[:, :width], lab[:, -width:])
    colours = np.stack([np.median(side.reshape(-1, 3), axis=0) for side in sides])
    contrast = np.linalg.norm(lab[:, :, None] - colours, axis=-1).min(-1)
    contrast = gaussian_filter(contrast, max(0.5, shorter / 100))
    if np.ptp(contrast) < 1e-6:  # one colour everywhere: nothing stands out
        return np.zeros(contrast.shape, dtype=bool)
    return contrast > threshold_otsu(contrast)


def image_of(picture: Tensor) -> Image:
    """A decoded picture `(3, h, w)` in 8 bits as `(1, 3, h, w)` in [0, 1]."""
    return picture.unsqueeze(0).to(torch.float32) / 255
