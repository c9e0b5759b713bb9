"""Variations of a scene: some of its factors changed by a known amount, or all of them made easier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from dreamsim_guidance.data.scenes.scene import (
    BACKGROUNDS,
    COUNTS,
    DARKEST,
    FACTORS,
    HSV,
    LAYOUTS,
    LEAN,
    SCALES,
    SHAPES,
    STYLES,
    TEXTURES,
    Scene,
    pick,
    random_seed,
)

__all__ = ["random_variation", "simplify", "vary"]


def simplify(scene: Scene, difficulty: float, generator: torch.Generator) -> Scene:
    """Return an easier version of the scene, for the beginning of a training.

    difficulty: between 0, a single large flat object in the middle, and 1, the scene as it is. Continuous factors
        shrink towards the easiest value, kinds become the plainest with probability 1 - `difficulty`; colours and shape
        are unchanged.
    """
    keep_layout, keep_background, keep_texture, keep_style = (torch.rand(4, generator=generator) <= difficulty).tolist()
    middle = 1.1
    return replace(
        scene,
        count=1 + round((scene.count - 1) * difficulty),
        layout=scene.layout if keep_layout else "grid",
        rotation=scene.rotation * difficulty,
        scale=middle + (scene.scale - middle) * difficulty,
        perspective=(scene.perspective[0] * difficulty, scene.perspective[1] * difficulty),
        background=scene.background if keep_background else "plain",
        texture=scene.texture if keep_texture else "plain",
        style=scene.style if keep_style else "flat",
    )


def vary(scene: Scene, factors: str | Sequence[str], amount: float, generator: torch.Generator) -> Scene:
    """Return the scene with the named factors changed, and with a new seed.

    factors: names of `FACTORS`; with an empty list only the seed changes.
    amount: in (0, 1], how far continuous factors move (colour, count, rotation, scale, perspective, the colour of the
        background). A kind (shape, layout, texture, style, and that of the background from an amount of 0.5) becomes another
        kind whatever the amount.

    Raises ValueError for an unknown factor and for an amount outside (0, 1].
    """
    factors = (factors,) if isinstance(factors, str) else tuple(factors)
    if unknown := [name for name in factors if name not in FACTORS]:
        raise ValueError(f"unknown factor '{unknown[0]}'; known: {', '.join(FACTORS)}.")
    if not 0 < amount <= 1:
        raise ValueError(f"amount must lie in (0, 1], got {amount}.")
    changed = replace(scene, seed=random_seed(generator))
    for name in factors:
        u = torch.rand(4, generator=generator).tolist()
        changed = _VARIATIONS[name](changed, amount, u)
    return changed


def random_variation(scene: Scene, generator: torch.Generator, most: int = 4) -> Scene:
    """Return the scene with one to `most` randomly chosen factors changed, by a random amount in [0.1, 1)."""
    count = int(torch.randint(1, most + 1, (), generator=generator))
    chosen = torch.randperm(len(FACTORS), generator=generator)[:count].tolist()
    amount = 0.1 + 0.9 * float(torch.rand((), generator=generator))
    return vary(scene, [FACTORS[i] for i in chosen], amount, generator)


def _other(kinds: Sequence[str], current: str, u: float) -> str:
    return pick([kind for kind in kinds if kind != current], u)


def _reflected(value: float, step: float, low: float, high: float) -> float:
    """`value` after a step, taken in the other direction if it would leave the range, and clipped to the range."""
    moved = value + step
    return min(max(moved if low <= moved <= high else value - step, low), high)


def _vary_colour(colour: HSV, amount: float, u: Sequence[float]) -> HSV:
    hue, saturation, value = colour
    sign = 1 if u[0] < 0.5 else -1
    return (
        (hue + sign * 0.4 * amount) % 1.0,
        _reflected(saturation, (u[1] - 0.5) * amount, 0.0, 1.0),
        _reflected(value, (u[2] - 0.5) * amount, DARKEST, 1.0),
    )


def _vary_count(scene: Scene, amount: float, u: Sequence[float]) -> Scene:
    step = max(1, round(amount * (COUNTS[1] - COUNTS[0])))
    lower, upper = scene.count - step, scene.count + step
    inside = [n for n in (lower, upper) if COUNTS[0] <= n <= COUNTS[1]]
    furthest = COUNTS[0] if scene.count - COUNTS[0] > COUNTS[1] - scene.count else COUNTS[1]
    return replace(scene, count=inside[int(u[0] * len(inside))] if inside else furthest)


def _vary_rotation(scene: Scene, amount: float, u: Sequence[float]) -> Scene:
    step = (1 if u[0] < 0.5 else -1) * amount * LEAN
    return replace(scene, rotation=_reflected(scene.rotation, step, -LEAN, LEAN))


def _vary_scale(scene: Scene, amount: float, u: Sequence[float]) -> Scene:
    step = (1 if u[0] < 0.5 else -1) * amount * (SCALES[1] - SCALES[0])
    return replace(scene, scale=_reflected(scene.scale, step, *SCALES))


def _vary_perspective(scene: Scene, amount: float, u: Sequence[float]) -> Scene:
    x, y = scene.perspective
    angle = 2 * math.pi * u[0]
    turn, tip = 1.5 * amount * math.cos(angle), 1.5 * amount * math.sin(angle)
    return replace(scene, perspective=(_reflected(x, turn, -1.0, 1.0), _reflected(y, tip, -1.0, 1.0)))


def _vary_background(scene: Scene, amount: float, u: Sequence[float]) -> Scene:
    kind = _other(BACKGROUNDS, scene.background, u[3]) if amount >= 0.5 else scene.background
    return replace(scene, background=kind, background_colour=_vary_colour(scene.background_colour, amount, u))


_VARIATIONS = {
    "shape": lambda s, amount, u: replace(s, shape=_other(SHAPES, s.shape, u[0])),
    "colour": lambda s, amount, u: replace(s, colour=_vary_colour(s.colour, amount, u)),
    "count": _vary_count,
    "layout": lambda s, amount, u: replace(s, layout=_other(LAYOUTS, s.layout, u[0])),
    "rotation": _vary_rotation,
    "scale": _vary_scale,
    "perspective": _vary_perspective,
    "background": _vary_background,
    "texture": lambda s, amount, u: replace(s, texture=_other(TEXTURES, s.texture, u[0])),
    "style": lambda s, amount, u: replace(s, style=_other(STYLES, s.style, u[0])),
}
