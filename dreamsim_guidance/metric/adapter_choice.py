"""Adapters chosen for a call in towers of any kind: the images of each name run together, with that adapter active.

`low_rank.py` does it with less work, for plain Vision Transformers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from dreamsim_guidance.metric.adapter_targets import is_adapted
from dreamsim_guidance.metric.low_rank import Names

__all__ = ["run_by_adapter", "tuned_weight"]

Output = TypeVar("Output", Tensor, list[Tensor])


def run_by_adapter(run: Callable[[Tensor], Output], tower: nn.Module, images: Tensor, names: Names) -> Output:
    """`run(images)` with the adapter of each image active in `tower`, without dropout, in the order of the images.

    run: from images `(b, ...)` to a tensor `(b, ...)`, or a list of them.
    names: one for all images, or b of them; None is the tower without adapter.

    The layers' own state is switched for the time of the call and restored afterwards, also after an exception. Such a call is
    therefore not thread-safe: nothing else may use or change the tower meanwhile. A backward pass that runs layers again, as
    gradient checkpointing does, finds the active adapter instead of the chosen one.

    Raises ValueError while an adapter is merged into the weights.
    """
    layers: list[Any] = [module for module in tower.modules() if is_adapted(module)]
    if any(layer.merged for layer in layers):
        raise ValueError("adapters cannot be chosen for a call while one is merged into the weights; unmerge it first.")
    places: dict[str | None, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    if len(places) == 1 or not layers:
        with _acting(layers, names[0]):
            return run(images)
    results: list[Output] = []
    for name, chosen in places.items():
        with _acting(layers, name):  # slices instead of an index, which would have to be copied to an accelerator
            results.append(run(torch.cat([images[place : place + 1] for place in chosen])))
    order = [place for chosen in places.values() for place in chosen]
    if isinstance(results[0], Tensor):
        return cast(Output, _in_order(cast("list[Tensor]", results), order))
    return cast(Output, [_in_order(parts, order) for parts in zip(*cast("list[list[Tensor]]", results), strict=True)])


def _in_order(parts: Sequence[Tensor], order: Sequence[int]) -> Tensor:
    """The rows of all `parts`, which belong to the places `order`, from place 0 on."""
    rows = dict(zip(order, torch.cat(list(parts)).split(1), strict=True))
    return torch.cat([rows[place] for place in range(len(order))])


def tuned_weight(layer: Any) -> Tensor:
    """The weight that a layer applies: with its active adapter, if it has one."""
    if not is_adapted(layer):
        return layer.weight
    weight = layer.get_base_layer().weight
    if layer.merged or layer.disable_adapters:
        return weight
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weight = weight + layer.get_delta_weight(name).to(weight.dtype)
    return weight


@contextmanager
def _acting(layers: list[Any], name: str | None) -> Iterator[None]:
    """A context in which the adapter `name` acts in all `layers`, without dropout.

    peft's own methods would change which parameters need gradients, which functional transforms do not allow.
    """
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    dropouts = [dropout for layer in layers for dropout in layer.lora_dropout.values()]
    modes = [dropout.training for dropout in dropouts]
    try:
        for layer in layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        for dropout in dropouts:
            dropout.training = False
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled
        for dropout, mode in zip(dropouts, modes, strict=True):
            dropout.training = mode
