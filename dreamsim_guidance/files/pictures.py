"""Read picture files. Only this module opens them, so that all parts of the library see the same picture.

    reading       orientation                  more than 8 bits
    "upright"     as the EXIF tag says         scaled to [0, 1]
    "original"    as stored                    clipped at 255

"original" is the reading of the original package: PIL's `convert("RGB")` of the file as it is stored. In both readings
palettes become colours, grey is repeated, CMYK is converted, alpha is dropped, and an animation is its first frame. PIL
reads only the upper 8 bits of colour pictures with 16 bits per channel.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

__all__ = [
    "SUFFIXES",
    "PictureError",
    "Reading",
    "decode_pixels",
    "pixels_of",
    "read_pixels",
    "read_rgb",
    "readings_differ",
    "rgb_of",
]

Reading = Literal["upright", "original"]
"""How a picture file is read; see the table above."""

SUFFIXES = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files in a folder that count as pictures."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
"""The operation that makes a picture upright, by the value of its EXIF tag."""

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""Exceptions that PIL raises for broken files, depending on the format."""


class PictureError(ValueError):
    """A file cannot be read as a picture. `reason` is the cause without the name of the file."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def read_pixels(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read the picture in a file at its full depth, upright, as an array like that of `pixels_of`.

    Raises FileNotFoundError, or PictureError (a ValueError) for a file that is not a complete picture.
    """
    with _opened(path) as picture:
        return pixels_of(_upright(picture))


def decode_pixels(data: bytes, name: str = "picture", reading: Reading = "upright") -> NDArray[Any]:
    """Decode the bytes of a picture file to an array like that of `pixels_of`.

    name: of the picture, for the message of an error.
    reading: "upright", the default, gives the pixels of `read_pixels`, "original" those of `read_rgb` with that reading.

    Raises PictureError (a ValueError) for bytes that are not a complete picture.
    """
    with _decoding(io.BytesIO(data), name) as picture:
        return np.array(rgb_of(picture)) if reading == "original" else pixels_of(_upright(picture))


def read_rgb(path: str | os.PathLike[str], reading: Reading = "upright") -> PILImage.Image:
    """Read the picture in a file as a PIL image of mode RGB, with 8 bits per channel. Errors as `read_pixels`.

    With the reading "upright", deeper pictures are rounded to 8 bits; floating-point values must lie in [0, 1].
    """
    if reading not in ("upright", "original"):
        raise ValueError(f"reading must be 'upright' or 'original', got {reading!r}.")
    with _opened(path) as picture:
        if reading == "original":
            return rgb_of(picture)
        picture = _upright(picture)
        return (
            PILImage.fromarray(_in_8_bits(pixels_of(picture))).convert("RGB") if _is_deep(picture) else rgb_of(picture)
        )


def readings_differ(path: str | os.PathLike[str]) -> bool:
    """Whether the two readings of a file may give different pictures. Decodes the whole file; errors as `read_pixels`."""
    with _opened(path) as picture:
        picture.load()
        return _is_deep(picture) or _orientation(picture) in _UPRIGHT


def pixels_of(picture: PILImage.Image) -> NDArray[Any]:
    """The pixels of a PIL image: `(h, w, 3)` uint8, or `(h, w)` uint16 or float32 if it has more than 8 bits.

    Raises ValueError for integers outside [0, 65535], whose white point is not known.
    """
    if not _is_deep(picture):
        return np.array(rgb_of(picture))
    pixels = np.array(picture)
    if picture.mode == "F":
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:  # mode "I" has 32 bits, and some formats use it for 16
        raise ValueError(
            f"its integers run from {low} to {high}, so its white point is not known; store it with 8 or 16 bits"
        )
    return pixels.astype(np.uint16)


def rgb_of(picture: PILImage.Image) -> PILImage.Image:
    """Convert a PIL image of any mode to RGB in 8 bits, without alpha, as `convert("RGB")` does."""
    if picture.mode == "P":  # converting a transparent palette directly to RGB causes a warning
        picture = picture.convert("RGBA")
    elif picture.mode == "La":  # premultiplied alpha, which PIL converts only to LA
        picture = picture.convert("LA")
    return picture.convert("RGB")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[PILImage.Image]:
    """Open the file with PIL; any failure to decode it, also inside the block, becomes a PictureError."""
    if not os.fspath(path):
        raise FileNotFoundError("image not found: the path is empty; give the path of a picture (png, jpg, webp, ...).")
    file = Path(path)
    if file.is_dir():
        raise FileNotFoundError(f"image not found: '{file}' is a folder; give the path of a picture in it.")
    if not file.exists():
        raise FileNotFoundError(f"image not found: '{file}'; give the path of a picture (png, jpg, webp, ...).")
    try:
        stream = file.open("rb")
    except OSError as error:
        raise _unreadable(file, str(error)) from error
    # from a stream, because PIL maps a named file into memory and then scrambles rotated 16-bit TIFFs
    with stream, _decoding(stream, file) as picture:
        yield picture


@contextmanager
def _decoding(stream: io.BufferedReader | io.BytesIO, file: Path | str) -> Iterator[PILImage.Image]:
    """The picture in a stream, which `file` names in messages; failures as in `_opened`."""
    try:
        with PILImage.open(stream) as picture:
            yield picture
    except PILImage.DecompressionBombError as error:
        raise _too_large(file, error) from error
    except PILImage.UnidentifiedImageError as error:  # its message only repeats the path
        raise _unreadable(file, "not a picture") from error
    except _UNREADABLE as error:
        raise _unreadable(file, str(error) or type(error).__name__) from error


def _unreadable(file: Path | str, reason: str) -> PictureError:
    return PictureError(
        f"'{file}' cannot be read as an image ({reason}); give a png, jpg, webp, ... that is complete.", reason
    )


def _too_large(file: Path | str, error: Exception) -> PictureError:
    pixels, limit = ([*map(int, re.findall(r"\d+", str(error))), 0, 0])[:2]
    reason = (
        f"{pixels / 1e6:.0f} million pixels, more than the limit of {limit / 1e6:.0f} million "
        "(twice PIL.Image.MAX_IMAGE_PIXELS)"
    )
    return PictureError(
        f"'{file}' is too large: {reason}; scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file.",
        reason,
    )


def _upright(picture: PILImage.Image) -> PILImage.Image:
    picture.load()  # some formats store the tag behind the pixels
    method = _UPRIGHT.get(_orientation(picture))
    return picture if method is None else picture.transpose(method)


def _orientation(picture: PILImage.Image) -> int:
    """The EXIF orientation; 1, upright, where the tag is missing or the EXIF data are damaged."""
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except _UNREADABLE:
        return 1


def _is_deep(picture: PILImage.Image) -> bool:
    """Whether a pixel has more than 8 bits per channel: integers of 16 or 32 bits, or floating point."""
    return picture.mode == "F" or picture.mode.startswith("I")


def _in_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"its values must lie in [0, 1], got [{low:.2f}, {high:.2f}]")
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)
