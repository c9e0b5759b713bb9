"""Captions of scenes, from which a contrastive model can learn their factors.

Every factor has phrases. A caption uses some of them, drops others at random, and puts them either into a sentence ("two large
red striped stars in a row, on a blue checked background, neon") or into shuffled tags ("striped texture, stars, neon sign,
two, ..."): the two styles of the captions that CLIP and OpenCLIP were trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Literal

import torch

from dreamsim_guidance.data.photographs import PHOTOGRAPHS
from dreamsim_guidance.data.scenes.scene import FACTORS, HSV, LAYOUTS, LEAN, SYMMETRY, Scene

__all__ = ["Manner", "caption", "colour_name", "tokenise", "vocabulary"]

Manner = Literal["sentence", "tags"]

_HUES = ("red", "orange", "yellow", "lime", "green", "turquoise", "cyan", "azure", "blue", "violet", "magenta", "pink")
_NUMBERS = ("", "one", "two", "three", "four", "five", "six")
_PLURALS = {"cross": "crosses"}
_TEXTURES = {
    "plain": ("plain", "uniform"),
    "stripes": ("striped", "lined"),
    "dots": ("dotted", "spotted"),
    "checks": ("checked", "chequered"),
    "waves": ("wavy", "rippled"),
    "speckles": ("speckled", "mottled"),
}
_BACKGROUNDS = {
    "plain": ("plain", "empty"),
    "gradient": ("graded", "shaded"),
    "horizon": ("horizon", "landscape"),
    "stripes": ("striped", "barred"),
    "checks": ("checked", "tiled"),
    "clouds": ("cloudy", "misty"),
}
_STYLES = {
    "flat": ("flat drawing", "poster"),
    "outlined": ("cartoon with outlines", "comic"),
    "shaded": ("lit relief", "rendering with shadows"),
    "sketch": ("pencil sketch", "hatched drawing"),
    "neon": ("neon light", "glowing sign"),
    "watercolour": ("watercolour", "soft painting"),
    "grainy": ("grainy film", "noisy print"),
    "mosaic": ("mosaic", "pixel art"),
}
_MANY = {
    "row": ("in a row", "side by side"),
    "column": ("in a column", "one above another"),
    "diagonal": ("along a diagonal", "in a slanted line"),
    "ring": ("in a ring", "around a circle"),
    "grid": ("in a grid", "in even rows"),
    "scattered": ("scattered", "here and there"),
}
_ALONE = {
    "row": ("low down", "at the bottom"),
    "column": ("on the left", "at the left side"),
    "diagonal": ("in the corner", "at the upper right"),
    "ring": ("at the top", "high up"),
    "grid": ("in the middle", "at the centre"),
    "scattered": ("somewhere", "off centre"),
}
_SIZES = (("tiny", "very small"), ("small", "little"), ("large", "big"), ("huge", "very large"))
_TURNS = (("leaning left", "tilted to the left"), ("upright", "straight"), ("leaning right", "tilted to the right"))
_VIEWS = {
    "left": ("nearer on the left", "turned to the right"),
    "right": ("nearer on the right", "turned to the left"),
    "top": ("nearer at the top", "tipped forward"),
    "bottom": ("nearer at the bottom", "tipped back"),
    "front": ("seen from the front", "facing us"),
}
_GLUE = "a an of on the background ground colour picture image view texture style with photograph"


def caption(
    scene: Scene,
    generator: torch.Generator,
    manner: Manner = "sentence",
    keep: float = 0.85,
    mention: Collection[str] = FACTORS,
) -> str:
    """Return a random caption of a scene.

    manner: "sentence" (the default) or "tags".
    keep: probability with which each phrase is used; by default 0.85.
    mention: the factors that may be mentioned; by default all. Without the shape, objects are called "things".
    """
    u = torch.rand(12, generator=generator).tolist()
    v = torch.rand(12, generator=generator).tolist()

    def say(i: int, factor: str, phrases: Sequence[str]) -> str:
        return phrases[int(u[i] * len(phrases))] if v[i] < keep and factor in mention else ""

    alone = scene.count == 1 if "count" in mention else u[11] < 0.3
    name = scene.shape if "shape" in mention else "thing"
    noun = name if alone else _PLURALS.get(name, name + "s")
    count = say(0, "count", (_NUMBERS[scene.count],))
    size, colour = say(1, "scale", _size(scene.scale)), say(2, "colour", (colour_name(scene.colour),))
    texture, style = say(3, "texture", _TEXTURES[scene.texture]), say(4, "style", _STYLES[scene.style])
    layout = say(5, "layout", (_ALONE if scene.count == 1 else _MANY)[scene.layout])
    turn, view = say(6, "rotation", _turn(scene)), say(7, "perspective", _view(scene.perspective))
    ground = say(8, "background", (colour_name(scene.background_colour),))
    ground = f"{ground} {say(9, 'background', _BACKGROUNDS[scene.background])}".strip()
    if manner == "sentence":
        subject = " ".join(filter(None, (count, size, colour, texture, noun, layout)))
        tags = [subject, turn, f"on a {ground} background" if ground else "", view]
        tags.insert(0 if u[10] < 0.5 else len(tags), style)
        return ", ".join(filter(None, tags))
    tags = [count, noun, f"{size} size" if size else "", colour, f"{texture} texture" if texture else ""]
    tags = [tag for tag in [*tags, f"{ground} ground" if ground else "", style, layout, turn, view] if tag]
    order = torch.randperm(len(tags), generator=generator).tolist()
    return ", ".join(tags[i] for i in order)


def colour_name(colour: HSV) -> str:
    """Return the name of a colour: white, grey or dark grey, or one of twelve hues, possibly dark or pale."""
    hue, saturation, value = colour
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey" if value > 0.5 else "dark grey"
    name = _HUES[round(hue * len(_HUES)) % len(_HUES)]
    return f"dark {name}" if value < 0.6 else f"pale {name}" if saturation < 0.5 else name


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Return the numbers, from 1, of all words of captions and of the photographs' names; 0 is padding."""
    tables = (_TEXTURES, _BACKGROUNDS, _STYLES, _MANY, _ALONE, _VIEWS)
    phrases = [phrase for table in tables for pair in table.values() for phrase in pair]
    phrases += [phrase for table in (_SIZES, _TURNS) for pair in table for phrase in pair]
    phrases += [*_HUES, *_NUMBERS, *SYMMETRY, *(_PLURALS.get(s, s + "s") for s in SYMMETRY), *LAYOUTS, *PHOTOGRAPHS]
    phrases += [_GLUE, "size dark pale white grey medium thing things"]
    words = sorted({word for phrase in phrases for word in phrase.split()})
    return {word: i + 1 for i, word in enumerate(words)}


def tokenise(captions: Sequence[str], length: int = 32) -> torch.Tensor:
    """Return word numbers, `(b, length)` int64, cut or padded with 0. Raises ValueError for a word that no caption has."""
    numbers = vocabulary()
    tokens = torch.zeros(len(captions), length, dtype=torch.long)
    for row, text in zip(tokens, captions, strict=True):
        words = text.replace(",", " ").split()[:length]
        if unknown := [word for word in words if word not in numbers]:
            raise ValueError(f"unknown word '{unknown[0]}' in '{text}'; captions use the words of vocabulary().")
        row[: len(words)] = torch.tensor([numbers[word] for word in words], dtype=torch.long)
    return tokens


def _size(scale: float) -> tuple[str, ...]:
    if 0.85 <= scale < 1.05:
        return ("medium",)
    return _SIZES[0 if scale < 0.72 else 1 if scale < 0.85 else 2 if scale < 1.18 else 3]


def _turn(scene: Scene) -> tuple[str, ...]:
    if SYMMETRY[scene.shape] == 0:
        return _TURNS[1]
    return _TURNS[0 if scene.rotation < -LEAN / 3 else 2 if scene.rotation > LEAN / 3 else 1]


def _view(perspective: tuple[float, float]) -> tuple[str, ...]:
    turn, tip = perspective
    if max(abs(turn), abs(tip)) < 0.3:
        return _VIEWS["front"]
    if abs(turn) > abs(tip):
        return _VIEWS["left" if turn > 0 else "right"]
    return _VIEWS["top" if tip > 0 else "bottom"]
