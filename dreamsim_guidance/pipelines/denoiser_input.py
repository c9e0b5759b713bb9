"""The noisy state among the arguments of a denoiser, read or replaced by a leaf of a new graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["leaf_of_input", "state_among", "with_state"]

_STATE_NAMES = ("sample", "hidden_states", "x")


def state_among(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The noisy state among the arguments of a denoiser."""
    return args[0] if args else next((kwargs[name] for name in _STATE_NAMES if name in kwargs), None)


def with_state(args: tuple[Any, ...], kwargs: dict[str, Any], state: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a denoiser with another noisy state."""
    if args:
        return (state, *args[1:]), kwargs
    name = next(name for name in _STATE_NAMES if name in kwargs)
    return args, {**kwargs, name: state}


def leaf_of_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Tensor]:
    """The arguments of a denoiser with its state made the leaf of a new graph, and that leaf.

    Switches autograd on until the calling block ends, whose decorator restores the mode.
    """
    torch.set_grad_enabled(True)
    leaf = state_among(args, kwargs).detach().requires_grad_()
    return *with_state(args, kwargs, leaf), leaf
