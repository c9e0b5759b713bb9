"""Maps of features as one vector, so that a comparison position by position is the usual distance of two vectors.

With unit vectors u_lp, v_lp of the channels of layer l at position p, and weights w_l that sum to one,

    d = sum_l w_l mean_p |u_lp - v_lp|^2 / 2 = |U - V|^2 / 2,     U = concat_lp sqrt(w_l / n_l) u_lp

A mask replaces 1 / n_l by its share at each position. U has length one, so caches, targets, training and everything else that
takes embeddings takes maps as well. The distance is that of LPIPS (Zhang et al., CVPR 2018), of whole channel vectors without
learned weights, halved.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.metric.distance import half_chord
from dreamsim_guidance.types import Map, Mask

__all__ = ["compare_maps", "join_maps", "shares"]


def shares(weights: Sequence[float]) -> list[float]:
    """Positive weights of any size, scaled to sum to one."""
    largest = max(weights)
    relative = [weight / largest for weight in weights]  # the sum of the weights themselves may overflow
    return [weight / sum(relative) for weight in relative]


def join_maps(maps: Sequence[Map], mask: Mask | None = None) -> Float[Tensor, "b d"]:
    """Unit vectors of all positions `(b, channels, rows, columns)`, each map scaled by sqrt(w_l), as one vector `(b, d)`.

    mask: `(1 or b, 1, h, w)` of any size, in [0, 1]: how much each position counts; None for all alike.
    """
    parts = []
    for x in maps:
        rows, columns = x.shape[-2:]
        if mask is None:
            weighted = x * (rows * columns) ** -0.5
        else:
            share = F.adaptive_avg_pool2d(mask.to(x.dtype), (rows, columns))
            weighted = x * (share / share.sum((2, 3), keepdim=True).clamp(min=1e-12)).sqrt()
        parts.append(weighted.flatten(1))
    return torch.cat(parts, -1)


def compare_maps(a: Sequence[Map], b: Sequence[Map]) -> Float[Tensor, "b rows columns"]:
    """The distance at each position, summed over the maps, on the finest grid; its mean is about the distance of the images.

    a, b: maps of two batches of images, as for `join_maps`. Coarser maps are enlarged bilinearly.
    """
    grids = [x.shape[-2:] for x in a]
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    total: Tensor | float = 0.0
    for x, y in zip(a, b, strict=True):
        places = half_chord(x.movedim(1, -1), y.movedim(1, -1))
        total = total + F.interpolate(places[:, None], tuple(finest), mode="bilinear")[:, 0]
    assert isinstance(total, Tensor)  # an ensemble has at least one map
    return total
