"""Low-rank adapters that are chosen for a call, or for each image of it: one base, many raters, without folding.

    y_i = W x_i + s_a B_a A_a x_i      a = the adapter of image i

For several adapters in one batch, the ranks of all of them are computed for all images, and those that are not an image's own
are multiplied by zero: two more matrix products, however many adapters there are.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.tracing import values_unknown

__all__ = ["LowRank", "Names", "add_adapters", "linear"]

Names = Sequence[str | None]
"""The adapters of a call: one name for all images, or one for each; None is a tower without adapter."""


@dataclass(frozen=True)
class LowRank:
    """One adapter on a layer of k towers: `scale * B A x`."""

    a: Tensor
    """`(k, r, in)`"""
    b: Tensor
    """`(k, out, r)`"""
    scale: float


def linear(layer: Any, x: Tensor, names: Names | None) -> Tensor:
    """`layer(x)` of tokens `(b, n, in)`, with the adapters in `names` if the layer has them; None: with its active adapter."""
    if names is None or not hasattr(layer, "lora_A"):
        return layer(x)
    if layer.merged:
        raise ValueError("adapters cannot be chosen for a call while one is merged into the weights; unmerge it first.")
    y = layer.get_base_layer()(x)
    adapters = {
        name: LowRank(layer.lora_A[name].weight[None], layer.lora_B[name].weight[None], layer.scaling[name])
        for name in layer.lora_A
    }
    return add_adapters(y.flatten(0, 1)[None], x[None], adapters, names)[0].view_as(y)


def add_adapters(y: Tensor, x: Tensor, layer: Mapping[str, LowRank], names: Names) -> Tensor:
    """`y + scale * B A x` with each image's adapter; x `(k, b, n, in)`, y `(k, b * n, out)`.

    layer: the adapters of the layer by name, used in the precision of x; a name that it does not have changes nothing.
    """
    adapters = [name for name in dict.fromkeys(names) if name is not None and name in layer]
    if not adapters:
        return y
    rows = x.flatten(1, 2)
    if len(names) == 1:
        low = layer[adapters[0]]
        return torch.baddbmm(y, torch.bmm(rows, low.a.mT.to(x.dtype)), low.b.mT.to(y.dtype), alpha=low.scale)
    ranks = tuple(layer[name].a.shape[1] for name in adapters)
    scales = tuple(layer[name].scale for name in adapters)
    make = _table if values_unknown() else _cached_table
    table = make(tuple(names), tuple(adapters), ranks, scales, y.dtype, x.device)
    a, b = torch.cat([layer[name].a for name in adapters], 1), torch.cat([layer[name].b for name in adapters], 2)
    inner = torch.bmm(rows, a.mT.to(x.dtype)).unflatten(1, x.shape[1:3])
    return torch.baddbmm(y, (inner * table[:, None]).flatten(1, 2), b.mT.to(y.dtype))


def _table(
    names: tuple[str | None, ...],
    adapters: tuple[str, ...],
    ranks: tuple[int, ...],
    scales: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """`(b, sum of ranks)`: the scale of an image's adapter at the ranks of that adapter, zero at all others."""
    rows = [
        [
            scale if name == chosen else 0.0
            for name, rank, scale in zip(adapters, ranks, scales, strict=True)
            for _ in range(rank)
        ]
        for chosen in names
    ]
    with torch.inference_mode(False):  # also for calls that save it for a backward pass
        return torch.tensor(rows, dtype=dtype, device=device)


_cached_table = lru_cache(maxsize=64)(_table)
"""To copy it to an accelerator at every layer of every call would make the host wait."""
