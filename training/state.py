"""The state of a run, whole on the main process, from a model that may be plain, replicated (DDP) or sharded (FSDP).

Only what is trained is kept: the frozen towers of an ensemble are a gigabyte, an adapter a few megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

__all__ = ["Average", "optimiser_state", "restore_optimiser", "restore_weights", "trained_weights"]

_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


def trained_weights(model: nn.Module) -> dict[str, Any]:
    """What is trained, and buffers, by name, on the CPU; empty but on the main process where the model is sharded.

    Every process has to call it.
    """
    options = StateDictOptions(ignore_frozen_params=True, full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    return {name: value.clone() for name, value in state.items()}


def restore_weights(model: nn.Module, state: dict[str, Any]) -> None:
    """The reverse; every process has the state. Raises ValueError for a state of another model."""
    wanted = {_WRAPPERS.sub("", name) for name, p in model.named_parameters() if p.requires_grad}
    there = wanted | {_WRAPPERS.sub("", name) for name, _ in model.named_buffers()}
    if odd := sorted((wanted - state.keys()) | (state.keys() - there)):
        raise ValueError(
            f"the checkpoint is of another model: '{odd[0]}' is in one of them only; give an empty folder."
        )
    set_model_state_dict(model, state, options=StateDictOptions(strict=False, full_state_dict=True))


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """As `trained_weights`, for the optimiser."""
    return get_optimizer_state_dict(model, optimiser, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    set_optimizer_state_dict(model, optimiser, state, options=StateDictOptions(full_state_dict=True))


class Average:
    """Exponential average of what is trained: `average <- momentum * average + (1 - momentum) * weights`.

    The momentum grows to its value as (1 + step) / (10 + step), so that the start is forgotten soon.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.values: list[Tensor] = [p.detach().clone() for p in self.parameters]

    def update(self, step: int) -> None:
        momentum = min(self.momentum, (1 + step) / (10 + step))
        with torch.no_grad():
            for value, parameter in zip(self.values, self.parameters, strict=True):
                value.lerp_(parameter, 1 - momentum)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the averaged weights, until the block ends."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for value, parameter in zip(self.values, self.parameters, strict=True):
                kept = parameter.detach().clone()
                parameter.copy_(value)
                value.copy_(kept)
