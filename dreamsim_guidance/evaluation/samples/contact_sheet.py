"""A sheet of labelled rows of pictures: for example targets, and below them each method's reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from dreamsim_guidance.preprocess import load_image

__all__ = ["contact_sheet", "some"]

_SIDE, _GAP, _LINE, _MARGIN = 128, 8, 20, 12
_INK, _GROUND = (30, 30, 32), (255, 255, 255)


def contact_sheet(
    rows: Mapping[str, Sequence[Path | PILImage.Image]], notes: Mapping[str, Sequence[str]], side: int = _SIDE
) -> PILImage.Image:
    """Draw one row of pictures for each name.

    rows: the pictures of each row, or their files, by the name that stands at its left.
    notes: short texts below the pictures of a row, by its name; rows and pictures without one have no text.
    side: of the square into which each picture is fitted, in pixels; by default 128.
    """
    font = ImageFont.load_default(size=13)
    columns = max(len(files) for files in rows.values())
    names = [_short(name, font) for name in rows]
    left = _MARGIN + max(int(font.getlength(name)) for name in names) + _GAP
    height = side + _LINE + _GAP
    sheet = PILImage.new("RGB", (left + columns * (side + _GAP) + _MARGIN, _MARGIN + len(rows) * height), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (name, files) in enumerate(rows.items()):
        top = _MARGIN + i * height
        draw.text((_MARGIN, top + side // 2), names[i], _INK, font, anchor="lm")
        for j, file in enumerate(files):
            x = left + j * (side + _GAP)
            fitted = _fitted(file, side)
            sheet.paste(fitted, (x + (side - fitted.width) // 2, top + (side - fitted.height) // 2))
            if j < len(notes.get(name, ())):
                draw.text((x + side // 2, top + side + 3), notes[name][j], _INK, font, anchor="ma")
    return sheet


def some(count: int, most: int) -> list[int]:
    """Return up to `most` of `count` positions, evenly spread from the first to the last."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [0]
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _fitted(picture: Path | PILImage.Image, side: int) -> PILImage.Image:
    if isinstance(picture, Path):
        pixels = (load_image(picture)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        picture = PILImage.fromarray(pixels)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, PILImage.Resampling.LANCZOS if scale < 1 else PILImage.Resampling.NEAREST)


def _short(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(name) > 4 and font.getlength(name) > 1.5 * _SIDE:
        name = name[:-2] + "…"
    return name
