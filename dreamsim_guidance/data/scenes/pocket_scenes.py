"""The easy scenes that the pocket diffusion models generate.

A network of two million weights, trained for an hour on one processor, cannot learn everything that `sample_scene` draws. These
scenes are simpler: one to three upright objects of six shapes, seen from the front, large enough for 32 pixels, without
texture, in three styles on three backgrounds; the two colours are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene import Scene, sample_scene, scene_generator

__all__ = ["POCKET_KINDS", "POCKET_SCALES", "draw_pocket_scenes", "drawn", "pocket_scene"]

POCKET_KINDS: Mapping[str, tuple[str, ...] | tuple[int, ...]] = MappingProxyType(
    {
        "shape": ("circle", "square", "triangle", "star", "heart", "cross"),
        "count": (1, 2, 3),
        "layout": ("grid", "row", "column"),
        "background": ("plain", "gradient", "horizon"),
        "texture": ("plain",),
        "style": ("flat", "outlined", "shaded"),
    }
)
"""The values that each factor may take; there is no rotation and no perspective."""

POCKET_SCALES = (0.85, 1.2)


def pocket_scene(number: int, split: str = "train") -> Scene:
    """Return easy scene `number` of a split ("train", "val", "test"); splits share no scene.

    Raises ValueError for an unknown split.
    """
    generator = scene_generator(number, split)
    scene = sample_scene(generator)
    u = torch.rand(len(POCKET_KINDS) + 1, generator=generator).tolist()
    chosen: dict[str, Any] = {name: _pick(kinds, u[i]) for i, (name, kinds) in enumerate(POCKET_KINDS.items())}
    low, high = POCKET_SCALES
    return replace(scene, **chosen, rotation=0.0, perspective=(0.0, 0.0), scale=low + u[-1] * (high - low))


def draw_pocket_scenes(
    count: int, size: int, split: str = "train", first: int = 0
) -> tuple[list[Scene], UInt8[Tensor, "n 3 h w"]]:
    """Return scenes `first` to `first + count` of a split, and their pictures in 8 bits; about 1.5 ms each."""
    scenes = [pocket_scene(number, split) for number in range(first, first + count)]
    return scenes, drawn(scenes, size)


def drawn(scenes: Sequence[Scene], size: int) -> UInt8[Tensor, "n 3 h w"]:
    """Return the pictures of scenes in 8 bits."""
    pictures = torch.empty(len(scenes), 3, size, size, dtype=torch.uint8)
    for i, scene in enumerate(tqdm(scenes, desc="drawing scenes", mininterval=1.0)):
        pictures[i] = (draw(scene, size)[0] * 255).round().byte()
    return pictures


def _pick(kinds: Sequence[str] | Sequence[int], u: float) -> str | int:
    return kinds[min(int(u * len(kinds)), len(kinds) - 1)]
