"""Build an ensemble from its description and named tensors, without drawing random weights first.

Initialising a ViT-B that is overwritten a moment later costs seconds and half a gigabyte. Here the modules are built on
PyTorch's "meta" device, which has shapes but no memory; the tensors are compared with those shapes and then assigned.
Towers that cannot be built that way are built as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble, building_for

__all__ = ["difference", "fill", "skeleton"]


def skeleton(configs: Sequence[BranchConfig], hidden: int | None = None) -> Ensemble:
    """The ensemble without values, its parameters on the device "meta", for `fill`."""
    try:
        with torch.device("meta"):
            return Ensemble(list(configs), hidden)
    except (RuntimeError, NotImplementedError):  # a constructor that reads values
        return Ensemble(list(configs), hidden)


def fill(ensemble: Ensemble, tensors: Mapping[str, Tensor]) -> Ensemble:
    """`ensemble` (from `skeleton`) with `tensors` as its parameters, which are not copied.

    Raises RuntimeError, as `load_state_dict` does, if names or shapes differ; call `difference` first.
    """
    ensemble.load_state_dict(dict(tensors), strict=True, assign=True)
    for branch in cast("list[Branch]", list(ensemble.branches)):  # constants of the config, which no state_dict holds
        branch.set_colours()
    if any(tensor.is_meta for tensor in chain(ensemble.parameters(), ensemble.buffers())):
        # a tower with constants that no file holds (tables of rotary positions, masks of windows)
        hidden = None if ensemble.head is None else ensemble.head.fc1.out_features
        with building_for("cpu"):
            ensemble = Ensemble(list(ensemble.configs), hidden).to(next(iter(tensors.values())).dtype)
        ensemble.load_state_dict(dict(tensors), strict=True)
    return ensemble


def difference(expected: Mapping[str, Sequence[int]], actual: Mapping[str, Sequence[int]]) -> str | None:
    """How the `actual` shapes differ from the `expected` ones, by name, in words; None if they do not."""
    parts = []
    if missing := sorted(expected.keys() - actual.keys()):
        parts.append(f"missing: {_some(missing)}")
    if unknown := sorted(actual.keys() - expected.keys()):
        parts.append(f"unexpected: {_some(unknown)}")
    shapes = [
        f"{key} is {tuple(actual[key])} instead of {tuple(expected[key])}"
        for key in sorted(expected.keys() & actual.keys())
        if tuple(actual[key]) != tuple(expected[key])
    ]
    if shapes:
        parts.append(f"wrong shape: {_some(shapes)}")
    return "; ".join(parts) or None


def _some(items: list[str], limit: int = 4) -> str:
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")
