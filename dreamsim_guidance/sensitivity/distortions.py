"""Distortions of a picture by known strengths, without artefacts at the border.

Each picture is a canvas; the metric sees a window of 8/10 of its sides. Shift, rotation and scale move the window over the
canvas, so that no border, filling or mirror image comes into view; blur is applied to the canvas before the window is cut. The
canvas has twice the window's resolution, and every window is reduced by averaging 2 x 2 pixels: a moved window is no blurrier
than one at rest.

    noise               Gaussian, standard deviation in levels of 255; one pattern per picture, scaled by the strength
    blur                Gaussian, standard deviation in pixels
    jpeg                compression; strength is 100 - quality
    shift               pixels, diagonally, into one of four directions
    shift, wrapped      pixels; what leaves on one side enters on the other. The only one with a seam, for metrics that are
                        invariant to exactly this
    rotation            degrees about the centre, to either side
    scale               enlarged, per cent
    hue                 degrees, turning the chroma at constant luma (Rec. 601); colours outside the gamut are made paler
    hue (HSV)           degrees, as image editors turn it: luma changes too
    brightness          added, per cent
    contrast            lowered, per cent, towards the picture's mean
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageFilter

from dreamsim_guidance.files.pictures import decode_pixels

__all__ = ["SHIFT", "STRENGTHS", "canvas_of", "distorted", "window_at_rest"]

SHIFT = "shift"
STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "noise": (2.0, 5.0, 10.0, 20.0, 40.0),
    "blur": (0.5, 1.0, 2.0, 4.0),
    "jpeg": (10.0, 30.0, 50.0, 70.0, 90.0),
    SHIFT: (1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
    "shift, wrapped": (1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
    "rotation": (1.0, 2.0, 4.0, 8.0, 15.0),
    "scale": (2.0, 5.0, 10.0, 20.0),
    "hue": (10.0, 20.0, 45.0, 90.0, 180.0),
    "hue (HSV)": (10.0, 20.0, 45.0, 90.0, 180.0),
    "brightness": (2.0, 5.0, 10.0, 20.0),
    "contrast": (10.0, 25.0, 50.0, 75.0),
}
"""Strengths of each distortion, rising; see the top of this file for their units."""

_WINDOW = 0.8
_SHARPNESS = 2
_LUMA = np.array([0.299, 0.587, 0.114])

Pixels = NDArray[np.floating]


def canvas_of(picture: PILImage.Image, window: int) -> PILImage.Image:
    """The central square of a picture, resized so that its window becomes `window` pixels wide."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    canvas = round(_SHARPNESS * window / _WINDOW)
    return picture.resize((canvas, canvas), PILImage.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def window_at_rest(canvas: PILImage.Image, window: int) -> PILImage.Image:
    """The undistorted window, `window` pixels wide."""
    return _view(canvas, window)


def distorted(canvas: PILImage.Image, window: int, kind: str, strength: float, number: int) -> PILImage.Image:
    """The window of a canvas after a distortion of `STRENGTHS`. `number` of the picture decides directions and noise."""
    diagonal = ((1, 1), (1, -1), (-1, 1), (-1, -1))[number % 4]
    if kind == "blur":
        return _view(canvas.filter(ImageFilter.GaussianBlur(_SHARPNESS * strength)), window)
    if kind == SHIFT:
        return _view(canvas, window, offset=(diagonal[0] * strength, diagonal[1] * strength))
    if kind == "rotation":
        return _view(canvas, window, degrees=diagonal[0] * strength)
    if kind == "scale":
        return _view(canvas, window, zoom=1 + strength / 100)
    rest = _view(canvas, window)
    if kind == "jpeg":
        buffer = io.BytesIO()
        rest.save(buffer, "JPEG", quality=round(100 - strength))
        return PILImage.fromarray(decode_pixels(buffer.getvalue()))
    if kind == "shift, wrapped":
        rolled = np.roll(np.asarray(rest), (diagonal[0] * round(strength), diagonal[1] * round(strength)), (0, 1))
        return PILImage.fromarray(rolled)
    pixels = np.asarray(rest, np.float32) / 255
    if kind == "noise":
        pattern = np.random.default_rng(number).standard_normal(pixels.shape)
        return _picture(pixels + pattern * strength / 255)
    return _picture(_COLOURS[kind](pixels, strength))


def _view(
    canvas: PILImage.Image,
    window: int,
    offset: tuple[float, float] = (0.0, 0.0),
    degrees: float = 0.0,
    zoom: float = 1.0,
) -> PILImage.Image:
    """The window in the middle of the canvas, moved by `offset` in pixels of the window, turned and enlarged."""
    side, centre = _SHARPNESS * window, canvas.width / 2
    cos, sin = math.cos(math.radians(degrees)) / zoom, math.sin(math.radians(degrees)) / zoom
    x, y = centre + _SHARPNESS * offset[0], centre + _SHARPNESS * offset[1]
    half = side / 2
    affine = (cos, -sin, x - (cos - sin) * half, sin, cos, y - (sin + cos) * half)
    moved = canvas.transform((side, side), PILImage.Transform.AFFINE, affine, PILImage.Resampling.BICUBIC)
    return moved.reduce(_SHARPNESS)


def _picture(pixels: Pixels) -> PILImage.Image:
    return PILImage.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def _turn_chroma(pixels: Pixels, degrees: float) -> Pixels:
    luma = (pixels @ _LUMA)[..., None]
    chroma = pixels - luma
    # in the plane of constant luma, spanned by R - Y and B - Y, which are scaled as in Y'CbCr
    red, blue = chroma[..., 0] / 1.402, chroma[..., 2] / 1.772
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    red, blue = cos * red - sin * blue, sin * red + cos * blue
    r, b = 1.402 * red, 1.772 * blue
    turned = np.stack([r, -(_LUMA[0] * r + _LUMA[2] * b) / _LUMA[1], b], axis=-1)
    room = np.where(turned > 0, 1 - luma, luma) / np.maximum(np.abs(turned), 1e-9)
    return luma + turned * np.clip(room.min(-1, keepdims=True), 0, 1)


def _turn_hue(pixels: Pixels, degrees: float) -> Pixels:
    from torchvision.transforms.functional import adjust_hue

    turn = degrees / 360 if degrees <= 180 else degrees / 360 - 1
    return adjust_hue(torch.from_numpy(pixels).permute(2, 0, 1), turn).permute(1, 2, 0).numpy()


_COLOURS: Mapping[str, Callable[[Pixels, float], Pixels]] = {
    "hue": _turn_chroma,
    "hue (HSV)": _turn_hue,
    "brightness": lambda pixels, per_cent: pixels + per_cent / 100,
    "contrast": lambda pixels, per_cent: pixels.mean((0, 1)) + (pixels - pixels.mean((0, 1))) * (1 - per_cent / 100),
}
