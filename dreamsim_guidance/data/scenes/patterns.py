"""Patterns on the plane of a scene: the texture of its objects, and its background, as arrays `(h, w, 3)` in [0, 1]."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image as PILImage

__all__ = ["background", "grid", "mix", "noise", "soft", "texture"]


def texture(kind: str, colour: np.ndarray, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    second = colour * 0.5 if colour.mean() > 0.45 else mix(colour, np.ones_like(colour), 0.5)
    if kind == "plain":
        return np.broadcast_to(colour, (*u.shape, 3))
    u, v = u + rng.uniform(0, 1), v + rng.uniform(0, 1)
    if kind == "stripes":
        wave = np.sin(11 * (u + v))
    elif kind == "dots":
        wave = np.sin(17 * u) * np.sin(17 * v) - 0.35
    elif kind == "checks":
        wave = np.sin(13 * u) * np.sin(13 * v)
    elif kind == "waves":
        wave = np.sin(20 * v + 3 * np.sin(9 * u))
    else:
        wave = noise(u.shape, max(4, u.shape[0] // 3), rng)[..., 0] - 0.6
    return mix(colour, second, soft(wave))


def background(kind: str, ground: np.ndarray, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    second = ground * 0.75 if ground.mean() > 0.4 else mix(ground, np.ones_like(ground), 0.25)
    if kind == "plain":
        return np.broadcast_to(ground, (*u.shape, 3))
    if kind == "gradient":
        return mix(ground, second * 0.7, np.clip(0.5 + 0.5 * v, 0, 1)[..., None])
    if kind == "horizon":
        sky = mix(ground, np.ones_like(ground), 0.45 * np.clip(0.5 - 0.5 * v, 0, 1)[..., None])
        return mix(sky, second * 0.75, soft(v - 0.1, 12.0))
    u, v = u + rng.uniform(0, 1), v + rng.uniform(0, 1)
    if kind == "stripes":
        return mix(ground, second, soft(np.sin(11 * u), 2.5))
    if kind == "checks":
        return mix(ground, second, soft(np.sin(7 * u) * np.sin(7 * v), 5.0))
    return mix(ground, mix(ground, np.ones_like(ground), 0.6), np.clip(1.6 * noise(u.shape, 5, rng) - 0.4, 0, 1))


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def mix(a: np.ndarray, b: np.ndarray, t: np.ndarray | float) -> np.ndarray:
    return a + (b - a) * t


def soft(wave: np.ndarray, sharpness: float = 4.0) -> np.ndarray:
    """A step at zero with a soft edge, `(h, w, 1)` in [0, 1]."""
    return np.clip(0.5 + sharpness * wave, 0, 1)[..., None]


def noise(shape: tuple[int, ...], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1], `(h, w, 1)`."""
    coarse = PILImage.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
    return np.asarray(coarse.resize((shape[1], shape[0]), PILImage.Resampling.BICUBIC), np.float32)[..., None] / 255
