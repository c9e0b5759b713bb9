"""A loss that determines a picture, for reconstruction from its pixels.

One embedding of an image does not: very different pictures share it. The embeddings of many parts do (`Parts`), and so do
the maps of several layers (`spatial=True`), which say what is at each position. Maps are compared under a few shifts of
both pictures, so that the grid of the network's strides does not appear in the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreamsim_guidance.inversion.parts import Parts
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.losses import Augmented, grid
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.photographs import default_metric
from dreamsim_guidance.types import AnyImage
from dreamsim_guidance.views import RandomShift

__all__ = ["picture_loss", "picture_metric"]

_SHIFTS, _PIXELS = 8, 4
"""Shifts that are compared in turn, and the largest of them in pixels."""


def picture_metric(name: str | None, device: torch.device | str) -> DreamSim:
    """The metric of this name for reconstruction: "photographs" in its spatial form, any other as it is.

    None is `default_metric`: "photographs" where its extra is installed, else "pocket".
    """
    name = name or default_metric()
    return DreamSim("photographs_spatial" if name == "photographs" else name, device=device)


def picture_loss(
    metric: DreamSim, target: AnyImage, seed: int = 0, grids: Sequence[int] = (1, 2, 4, 8, 16), draw: int = 32
) -> Loss:
    """A loss towards the picture `(1, 3, h, w)` in [0, 1] that determines it; `loss.at(step)` is a random share of it.

    seed: decides the shifts, and which parts or shifts a step compares.
    grids, draw: of a metric without maps: the parts are n x n overlapping crops for each n, and a step compares `draw` of them.
    """
    if metric.ensemble.spatial:
        pixels = min(_PIXELS, min(target.shape[-2:]) - 1)
        return Augmented(metric, target, views=_SHIFTS, seed=seed, transform=RandomShift(pixels)).named("maps")
    return Parts(metric, target, [box for n in grids for box in grid(n)], draw, seed)
