"""`factor_distance` for many pairs of scenes at once, on tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamsim_guidance.data.scenes import scene as known
from dreamsim_guidance.data.scenes.scene import Scene

__all__ = ["FactorTable"]

_KINDS = {
    "shape": known.SHAPES,
    "layout": known.LAYOUTS,
    "background": known.BACKGROUNDS,
    "texture": known.TEXTURES,
    "style": known.STYLES,
}


class FactorTable:
    """The factors of a list of scenes as tensors, and the distances between any of them."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.kinds = {
            name: torch.tensor([kinds.index(getattr(s, name)) for s in scenes]) for name, kinds in _KINDS.items()
        }
        self.symmetry = torch.tensor([known.SYMMETRY[s.shape] for s in scenes])
        self.rotation = torch.tensor([s.rotation for s in scenes])
        self.count = torch.tensor([s.count / (known.COUNTS[1] - known.COUNTS[0]) for s in scenes])
        self.scale = torch.tensor([s.scale / (known.SCALES[1] - known.SCALES[0]) for s in scenes])
        self.perspective = torch.tensor([s.perspective for s in scenes]) / math.hypot(2, 2)
        self.colour = torch.tensor([known.oklab(s.colour) for s in scenes])
        self.background_colour = torch.tensor([known.oklab(s.background_colour) for s in scenes])

    def distances(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b b"]:
        """Return the `factor_distance` between all pairs of the scenes in `index`."""
        weighted = [known.WEIGHTS[name] * part for name, part in self.by_factor(index).items()]
        return torch.stack(weighted).sum(0) / sum(known.WEIGHTS.values())

    def by_factor(self, index: Int[Tensor, " b"]) -> dict[str, Float[Tensor, "b b"]]:
        """Return the distances in [0, 1] of each factor between all pairs of the scenes in `index`."""
        differ = {name: _differences(kinds[index]) != 0 for name, kinds in self.kinds.items()}
        turns = _differences(self.rotation[index]) * self.symmetry[index] % 1.0
        parts = {name: value.float() for name, value in differ.items()}
        parts["colour"] = _lengths(self.colour[index], known.COLOUR_RANGE)
        ground = _lengths(self.background_colour[index], known.COLOUR_RANGE)
        parts["background"] = 0.5 * parts["background"] + 0.5 * ground
        parts["rotation"] = torch.where(differ["shape"], 0.5, 2 * torch.minimum(turns, 1 - turns))
        parts["count"] = _differences(self.count[index]).abs()
        parts["scale"] = _differences(self.scale[index]).abs()
        parts["perspective"] = _lengths(self.perspective[index], 1.0)
        return parts


def _differences(values: Tensor) -> Tensor:
    return values[:, None] - values[None]


def _lengths(points: Float[Tensor, "b d"], unit: float) -> Float[Tensor, "b b"]:
    return (_differences(points).square().sum(-1).sqrt() / unit).clamp(max=1.0)
