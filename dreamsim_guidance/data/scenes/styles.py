"""Styles: how the layers of a scene (background, surface, masks of objects and outlines) become a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from dreamsim_guidance.data.scenes.patterns import grid, mix, noise, soft

__all__ = ["OUTLINED", "STYLES", "Layers"]

_INK = np.array([0.08, 0.07, 0.10], np.float32)
_PAPER = np.array([0.96, 0.95, 0.91], np.float32)


@dataclass(frozen=True)
class Layers:
    """The input of a style: arrays `(h, w, 3)` and masks `(h, w, 1)`, all in [0, 1]."""

    background: np.ndarray
    surface: np.ndarray
    body: np.ndarray
    edge: np.ndarray
    colour: np.ndarray
    light: float
    """Direction from which the light comes, in radians."""
    rng: np.random.Generator


def _flat(s: Layers) -> np.ndarray:
    return mix(s.background, s.surface, s.body)


def _outlined(s: Layers) -> np.ndarray:
    return mix(mix(s.background, s.surface, s.body), _INK, s.edge)


def _shaded(s: Layers) -> np.ndarray:
    """Lit from one side, with a shadow on the other."""
    size = s.body.shape[0]
    dx, dy = math.cos(s.light), math.sin(s.light)
    shift = (round(0.05 * size * dy), round(0.05 * size * dx))
    shadow = np.roll(s.body, shift, (0, 1))
    relief = _blur(s.body, 6)
    slope = dy * np.gradient(relief[..., 0], axis=0) + dx * np.gradient(relief[..., 0], axis=1)
    lit = np.clip(1 + 0.09 * size * slope, 0.45, 1.5)[..., None]
    return mix(s.background * (1 - 0.55 * _blur(shadow, 3)), s.surface * lit, s.body)


def _sketch(s: Layers) -> np.ndarray:
    """Coloured pencil: hatched, on paper that keeps a tint of the background."""
    x, y = grid(s.body.shape[0])
    hatching = soft(np.sin(34 * (x - y)), 1.0) * s.body * 0.75
    paper = mix(_PAPER, s.background, 0.3)
    return mix(mix(paper, s.surface, hatching), s.colour * 0.45, s.edge)


def _neon(s: Layers) -> np.ndarray:
    glow = np.clip(2.0 * _blur(s.edge, 5), 0, 1)
    bright = s.colour / max(float(s.colour.max()), 0.5)
    return mix(
        s.background * 0.2 + s.surface * s.body * 0.25 + bright * glow * 0.6,
        mix(bright, np.ones_like(bright), 0.35),
        s.edge,
    )


def _watercolour(s: Layers) -> np.ndarray:
    wet = mix(s.background, s.surface, s.body * (0.6 + 0.4 * noise(s.body.shape, 7, s.rng)))
    return mix(_blur(wet, 3), np.ones(3, np.float32), 0.18 + 0.22 * noise(s.body.shape, 6, s.rng))


def _grainy(s: Layers) -> np.ndarray:
    return _flat(s) + s.rng.normal(0, 0.07, (*s.body.shape[:2], 1))


def _mosaic(s: Layers) -> np.ndarray:
    picture = _flat(s)
    size, cells = s.body.shape[0], min(21, s.body.shape[0])
    index = np.arange(cells) * size // cells
    sums = np.add.reduceat(np.add.reduceat(picture, index, axis=0), index, axis=1)
    lengths = np.diff(np.append(index, size)).astype(np.float32)
    tiles = sums / (lengths[:, None, None] * lengths[None, :, None])
    return np.repeat(np.repeat(tiles, lengths.astype(int), axis=0), lengths.astype(int), axis=1)


def _blur(array: np.ndarray, width: int) -> np.ndarray:
    """Mean over a box of about `width` pixels of a 64-pixel picture."""
    width = max(1, round(width * array.shape[0] / 64)) | 1
    for axis in (0, 1):
        padding = [(0, 0)] * array.ndim
        padding[axis] = (width // 2 + 1, width // 2)
        sums = np.cumsum(np.pad(array, padding, mode="edge"), axis=axis, dtype=np.float32)
        high = np.take(sums, range(width, sums.shape[axis]), axis=axis)
        low = np.take(sums, range(sums.shape[axis] - width), axis=axis)
        array = (high - low) / width
    return array


STYLES: Mapping[str, Callable[[Layers], np.ndarray]] = {
    "flat": _flat,
    "outlined": _outlined,
    "shaded": _shaded,
    "sketch": _sketch,
    "neon": _neon,
    "watercolour": _watercolour,
    "grainy": _grainy,
    "mosaic": _mosaic,
}

OUTLINED = ("outlined", "sketch", "neon")
"""Styles that draw the outlines of objects, half of which lie outside their bodies."""
