"""Small pictures for pages and sheets, by their paths in an index, and a placeholder for those that have moved."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from dreamsim_guidance.files.pictures import decode_pixels
from dreamsim_guidance.preprocess import to_image
from dreamsim_guidance.retrieval.members import readable_contents

__all__ = ["SIDE", "data_url", "placeholder", "shrunk", "thumbnail", "thumbnails"]

SIDE = 224
"""Pixels of a thumbnail's longer side."""

_GROUND, _INK = (229, 231, 235), (107, 114, 128)


def thumbnails(paths: Iterable[str], side: int = SIDE) -> dict[str, PILImage.Image | None]:
    """Return the pictures at these paths, at most `side` pixels wide and high; None for one that is missing or broken."""
    names = list(dict.fromkeys(paths))
    contents = readable_contents(names)
    return {path: thumbnail(contents[path], side) if path in contents else None for path in names}


def thumbnail(data: bytes, side: int = SIDE) -> PILImage.Image | None:
    """Return the picture in the bytes of a file, at most `side` pixels wide and high; None if it is broken."""
    try:
        pixels = decode_pixels(data)
        if pixels.dtype != np.uint8:
            image = to_image(pixels)[0].clamp(0, 1) * 255
            pixels = image.round().byte().permute(1, 2, 0).numpy()
    except Exception:  # a decoder may raise anything for a file that was made to break it
        return None
    return shrunk(PILImage.fromarray(pixels), side)


def shrunk(picture: PILImage.Image, side: int = SIDE) -> PILImage.Image:
    """Return the picture, at most `side` pixels wide and high."""
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, PILImage.Resampling.LANCZOS)


def placeholder(side: int = SIDE) -> PILImage.Image:
    """Return a grey square that says that the picture is missing."""
    picture = PILImage.new("RGB", (side, side), _GROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((side // 2, side // 2), "missing", _INK, ImageFont.load_default(size=max(10, side // 10)), anchor="mm")
    return picture


def data_url(picture: PILImage.Image) -> str:
    """Return the picture as a `data:` URL of a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
