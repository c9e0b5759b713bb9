"""Check images, resize them as PIL does but with a gradient, and read and write picture files.

The original package squashes a picture to 224 x 224 with PIL's bicubic filter, which widens with the scale (antialiased),
works in two passes and stores 8 bits after each. Here the same two passes are two dense matrix products with a clamp
after each, so that the result agrees with PIL to one grey level and has an exact gradient:

    columns <- clamp(image W_x^T),  square <- clamp(W_y columns)

The order of the passes changes the result by up to 6/255, because of the clamp in between. PIL resizes the width first;
since version 13 it resizes the height first where a picture loses far more height than width.

Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981 (a = -0.5, as in PIL).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from torch import Tensor
from torch._guards import active_fake_mode

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.pictures import pixels_of, read_pixels
from dreamsim_guidance.tracing import recording, transforms_active, values_unknown, without_autocast
from dreamsim_guidance.types import Image

__all__ = [
    "bicubic_bands",
    "check_candidate",
    "check_images",
    "check_range",
    "load_image",
    "resize",
    "save_image",
    "tables_at_hand",
    "to_image",
    "vertical_first",
]

_AT_HAND: ContextVar[bool] = ContextVar("tables at hand", default=False)

_SLACK = 1e-3
"""How far a reference image may exceed [0, 1]: enough for the rounding of a resize, too little for another range."""

_ROUNDING = 1e-5
"""Slack of the clamp in `resize`: a matrix product turns white into 1 +- 1e-7, which must keep its gradient."""

_BAND = 32
"""Outputs of a band: fewer make small products, more make many zeros."""

_PIL_CHOOSES = int(PIL.__version__.split(".")[0]) >= 13
"""Whether the installed PIL chooses the order of the two passes by the sizes."""


def check_images(images: object, name: str = "images") -> None:
    """Raise TypeError or ValueError unless `images` is a floating-point batch `(b, 3, h, w)` with b, h, w >= 1."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor of shape (b, 3, h, w), got {type(images).__name__}; "
            "use dreamsim_guidance.load_image for a file and dreamsim_guidance.to_image for a PIL image or an array."
        )
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point in [0, 1], got {images.dtype}; use x.float() / 255 for 8 bits.")
    shape = tuple(images.shape)
    if images.ndim != 4:
        fix = {
            3: "use x.unsqueeze(0) for a single image",
            5: "preprocess already adds the batch dimension, so join images with torch.cat, or use x.flatten(0, 1)",
        }.get(images.ndim, "pass one batch of images")
        raise ValueError(f"{name} must have shape (b, 3, h, w), got {shape}; {fix}.")
    if shape[1] != 3:
        fix = {
            1: "use x.expand(-1, 3, -1, -1) for grey images",
            4: "drop or composite the alpha channel, x[:, :3]",
        }.get(shape[1], "use x.permute(0, 3, 1, 2) for channels-last images" if shape[3] == 3 else "pass RGB")
        raise ValueError(f"{name} must have 3 channels (RGB), got {shape}; {fix}.")
    if 0 in shape:
        raise ValueError(f"{name} must hold at least one image of at least one pixel, got {shape}; skip empty batches.")


def check_range(images: Tensor, name: str = "images") -> None:
    """Raise ValueError unless all values lie in [0, 1].

    This reads two numbers back from the tensor's device: use it once, for references, not at every step of a loop. Where
    there are no values (`values_unknown`) nothing is checked.
    """
    if values_unknown() or recording.active or images.is_meta:
        return
    low, high = (float(v) for v in images.detach().aminmax())
    if low >= -_SLACK and high <= 1 + _SLACK:
        return
    if not (math.isfinite(low) and math.isfinite(high)):
        value = "NaN" if math.isnan(low) or math.isnan(high) else "inf" if math.isinf(high) else "-inf"
        raise ValueError(
            f"{name} must lie in [0, 1], got {value}; find where it arises, e.g. with torch.autograd.detect_anomaly."
        )
    raise ValueError(f"{name} must lie in [0, 1], got [{low:.2f}, {high:.2f}]; {_range_advice(low, high)}.")


def check_candidate(images: Tensor, name: str = "images", overshoot: bool | None = None) -> None:
    """Check the range of an image that is being judged or optimised, without stalling an accelerator.

    overshoot: True refuses only values that are NaN or infinite and a wrong scale (more than a tenth of all values more
        than 0.25 outside [0, 1]), because the predictions of a generator and images that are being optimised exceed
        [0, 1] a little. False is `check_range`. By default images may overshoot if a gradient flows to them.

    Raises ValueError. Only images on the CPU are checked, and only where there are values (`values_unknown`).
    """
    if values_unknown() or recording.active or images.device.type != "cpu":
        return
    if not (images.requires_grad if overshoot is None else overshoot):
        check_range(images, name)
        return
    values = images.detach()
    low, high = (float(v) for v in values.aminmax())
    if low >= -0.25 and high <= 1.25:
        return
    outside = ((values < -0.25) | (values > 1.25)).float().mean()
    if not (math.isfinite(low) and math.isfinite(high)) or float(outside) > 0.1:
        check_range(images, name)


def _range_advice(low: float, high: float) -> str:
    if high > 16:
        return "use x / 255 for images in [0, 255]"
    if low > -0.25 and high < 1.25:
        return "use x.clamp(0, 1) for images that overshoot"
    if -1.01 <= low < 0 and high <= 1.01:
        return "use (x + 1) / 2 for images in [-1, 1]"
    return "undo the mean and standard deviation of a normalised image, or use x.clamp(0, 1)"


def resize(images: Image, size: tuple[int, int]) -> Float[Tensor, "b 3 height width"]:
    """Resize images `(b, 3, h, w)` to `size` = (height, width) by PIL's antialiased bicubic filter, without its rounding.

    The aspect ratio is not kept. Differentiable, in float32 or wider even under autocast. Images that have this size are
    returned unchanged.

    Values outside [0, 1], however large, count as clamped and still receive the gradient of the clamped value. Infinite
    values count as clamped too, and receive none. A NaN makes the result of its image NaN, of no other image.
    """
    height, width = size
    if images.shape[-2:] == (height, width):
        return images
    dtype = torch.promote_types(images.dtype, torch.float32)
    with without_autocast(images.device):
        x = images.to(dtype)
        # straight-through: values outside are clamped, but keep a gradient that can pull them back inside. x - x is
        # exactly 0 for every finite x, and infinite values have been replaced before
        x = x.nan_to_num(nan=math.nan, posinf=1.0, neginf=0.0)
        x = x.clamp(0, 1).detach() + (x - x.detach())
        first = vertical_first((x.shape[-2], x.shape[-1]), size)
        for vertical in (first, not first):
            if vertical and x.shape[-2] != height:
                x = _clamp(_bicubic_weights(x.shape[-2], height, x.dtype, x.device) @ x)
            elif not vertical and x.shape[-1] != width:
                x = _clamp(x @ _bicubic_weights(x.shape[-1], width, x.dtype, x.device).T)
    return x


def vertical_first(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether PIL resizes the height before the width, from `shape` to `size`, both (height, width)."""
    less_height, less_width = shape[0] - size[0], shape[1] - size[1]
    return _PIL_CHOOSES and less_height > max(0, 2 * less_width)


def _clamp(x: Tensor) -> Tensor:
    return x.clamp(-_ROUNDING, 1 + _ROUNDING)


@contextmanager
def tables_at_hand() -> Iterator[None]:
    """A context in which fake tensors find the tables of filters made, as images do in all calls but the first."""
    token = _AT_HAND.set(True)
    try:
        yield
    finally:
        _AT_HAND.reset(token)


def _bicubic_weights(length: int, size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "size length"]:
    if _AT_HAND.get() and active_fake_mode() is not None:
        return torch.empty(size, length, dtype=dtype, device=device)
    # a compiler warns of caches that it traces, and a table of fake tensors or of a transform must not serve other images
    if values_unknown() or transforms_active():
        return _bicubic_table(length, size).to(device=device, dtype=dtype)
    return _cached_weights(length, size, dtype, device)


@lru_cache(maxsize=64)
def _cached_weights(length: int, size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "size length"]:
    """The table on the device, so that no step of a loop waits for a copy, and usable outside inference mode."""
    with torch.inference_mode(False):
        return _bicubic_table(length, size).to(device=device, dtype=dtype)


def _bicubic_table(length: int, size: int) -> Float[Tensor, "size length"]:
    """The weights of all inputs for output i in row i, which sums to one, float64: PIL's `precompute_coeffs`."""
    return _bicubic_rows(length, size, _positions(size), _positions(length))


@lru_cache(maxsize=256)
def bicubic_bands(length: int, size: int) -> tuple[tuple[int, int, Float[Tensor, "inputs outputs"]], ...]:
    """The table of `resize` without most zeros: for a few outputs each the first and last input and weights, float32."""
    reach = math.ceil(2.0 * max(length / size, 1.0)) + 1
    outputs = _positions(size)[:, None]
    # of each output, all inputs that have a weight, and a few more; those beyond the end have none
    inputs = ((outputs + 0.5) * (length / size) - reach).floor().clamp(min=0) + _positions(2 * reach + 1)
    weights = _bicubic_rows(length, size, outputs, inputs)[:, 0].to(torch.float32)
    table = torch.zeros(size, length + 2 * reach).scatter_(1, inputs.long(), weights)
    firsts, lasts = inputs[:, 0].int().tolist(), (inputs[:, -1].int() + 1).clamp(max=length).tolist()
    bands = []
    for start in range(0, size, _BAND):
        stop = min(start + _BAND, size)
        first, last = firsts[start], lasts[stop - 1]
        bands.append((first, last, table[start:stop, first:last].T.contiguous()))
    return tuple(bands)


def _positions(count: int) -> Float[Tensor, "count"]:
    return torch.arange(count, dtype=torch.float64, device="cpu")


def _bicubic_rows(
    length: int, size: int, outputs: Float[Tensor, "*bands outputs"], inputs: Float[Tensor, "*bands inputs"]
) -> Float[Tensor, "*bands outputs inputs"]:
    """Parts of `_bicubic_table`, for the positions of some outputs; `inputs` must hold all that have a weight.

    A compiler would make a constant of every length that goes into a `range`, and compile anew for every shape of images.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    centre = (outputs + 0.5) * scale
    first = (centre - support + 0.5).floor().clamp(min=0)
    last = (centre + support + 0.5).floor().clamp(max=length)
    inputs = inputs[..., None, :]
    inside = (inputs >= first[..., None]) & (inputs < last[..., None])
    weights = torch.where(inside, _cubic((inputs + 0.5 - centre[..., None]) / stretch), 0.0)
    return weights / weights.sum(-1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    a, x = -0.5, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def to_image(picture: PILImage.Image | np.ndarray) -> Image:
    """A PIL image or an array as `(1, 3, h, w)` float32 in [0, 1].

    picture: a PIL image of any mode, or an array `(h, w)`, `(h, w, 1)`, `(h, w, 3)` or `(h, w, 4)` of any byte order:
        uint8 is divided by 255, uint16 by 65535, bool is 0 or 1, floating point must lie in [0, 1]. Grey is repeated,
        alpha is dropped. A PIL image is taken as it is: an EXIF tag does not turn it (`load_image` does).

    Raises TypeError for anything else and for arrays of other types, ValueError for other shapes and ranges.
    """
    if isinstance(picture, PILImage.Image):
        picture = pixels_of(picture)
    return _from_pixels(picture, "the picture")


def load_image(path: str | os.PathLike[str]) -> Image:
    """The picture in a file as `(1, 3, h, w)` float32 in [0, 1], upright as its EXIF tag says, without alpha.

    Grey pictures of 16 bits or floating point keep their depth. (The original's `preprocess`, and ours in
    `metric.compat`, ignores the EXIF tag and clips values above 8 bits.)

    Raises FileNotFoundError, or ValueError for a file that PIL cannot read, is cut short, or has too many pixels.
    """
    return _from_pixels(read_pixels(path), f"'{path}'")


def _from_pixels(pixels: object, name: str) -> Image:
    if not isinstance(pixels, np.ndarray):
        raise TypeError(
            f"{name} must be a PIL image or a numpy array, got {type(pixels).__name__}; use np.asarray(x) for a list, "
            "x[None] for a tensor (3, h, w) in [0, 1]."
        )
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in shape:
        raise ValueError(f"an array must have shape (h, w) or (h, w, 1, 3 or 4), got {shape}{_shape_advice(shape)}.")
    kind = pixels.dtype.kind
    if kind == "f" or kind == "b":
        white = 1
    elif kind == "u" and pixels.itemsize <= 2:
        white = 255 if pixels.itemsize == 1 else 65535
    else:
        raise TypeError(
            f"an array must be uint8, uint16, bool or floating point in [0, 1], got {pixels.dtype}; convert it first."
        )
    with np.errstate(over="ignore"):  # values too large for float32 become inf, which the range check reports
        native = np.ascontiguousarray(pixels[..., :3], dtype=np.float32)  # of any byte order
    image = (torch.from_numpy(native) / white).permute(2, 0, 1).unsqueeze(0)
    if kind == "f":
        check_range(image, name)
    return image.expand(1, 3, -1, -1).clamp(0, 1)


def _shape_advice(shape: tuple[int, ...]) -> str:
    if len(shape) > 3:
        return "; convert one picture at a time, x[0]"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "; use x.transpose(1, 2, 0) for channels first"
    return ""


def save_image(image: Float[Tensor, "*b 3 h w"], path: str | os.PathLike[str]) -> None:
    """Write one image, `(3, h, w)` or `(1, 3, h, w)` in [0, 1], with 8 bits in the format of the file's ending.

    Values outside [0, 1] are clamped. The file appears complete or not at all. Raises ValueError for a larger batch.
    """
    if image.ndim == 4:
        if image.shape[0] != 1:
            raise ValueError(f"one image is needed, got a batch of {image.shape[0]}; write them one by one.")
        image = image[0]
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    path = Path(path)
    with writing(path, path.suffix or ".png") as temporary:
        PILImage.fromarray(pixels).save(temporary)
