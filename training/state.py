"""The state of weights and optimiser, gathered on the main process from a plain, replicated (DDP) or sharded (FSDP) model.

It covers trained parameters only: the frozen towers of an ensemble are a gigabyte, an adapter is a few megabytes.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from dreamsim_guidance.training.weight_average import SwappedAverage

__all__ = [
    "optimiser_state",
    "restore_optimiser",
    "restore_training",
    "restore_weights",
    "trained_weights",
    "training_state",
]

_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


def trained_weights(model: nn.Module) -> dict[str, Any]:
    """Copy the trained parameters and the buffers to the CPU, by name. Every process has to call it.

    Where the model is sharded, only the main process gets them; the others get an empty dictionary.
    """
    options = StateDictOptions(ignore_frozen_params=True, full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    return {name: value.clone() for name, value in state.items()}


def restore_weights(model: nn.Module, state: dict[str, Any]) -> None:
    """Load what `trained_weights` returned; every process passes the full state.

    Raises ValueError if the state belongs to another model.
    """
    trained = {_WRAPPERS.sub("", name) for name, p in model.named_parameters() if p.requires_grad}
    expected = trained | {_WRAPPERS.sub("", name) for name, _ in model.named_buffers()}
    if unmatched := sorted((trained - state.keys()) | (state.keys() - expected)):
        raise ValueError(
            f"the checkpoint is of another model: '{unmatched[0]}' is in one of them only; give an empty folder."
        )
    set_model_state_dict(model, state, options=StateDictOptions(strict=False, full_state_dict=True))


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Copy the optimiser's state to the CPU, as `trained_weights` does for the weights."""
    return get_optimizer_state_dict(model, optimiser, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `optimiser_state` returned; every process passes the full state."""
    set_optimizer_state_dict(model, optimiser, state, options=StateDictOptions(full_state_dict=True))


def training_state(
    accelerator: Accelerator, model: nn.Module, optimiser: torch.optim.Optimizer, average: SwappedAverage | None
) -> dict[str, Any]:
    """Weights, optimiser, average and gradient scaler of a run on the CPU. Every process has to call it."""
    state = {"weights": trained_weights(model), "optimiser": optimiser_state(model, optimiser)}
    if average is not None:
        with average.in_place():
            state["average"] = trained_weights(model)
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    return state


def restore_training(
    saved: dict[str, Any],
    accelerator: Accelerator,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: SwappedAverage | None,
) -> SwappedAverage | None:
    """Load what `training_state` returned; every process passes the full state. Returns the average in place of the old one."""
    if average is not None:
        restore_weights(model, saved["average"])
        average = SwappedAverage(model, average.momentum)
    restore_weights(model, saved["weights"])
    restore_optimiser(model, optimiser, saved["optimiser"])
    if accelerator.scaler is not None and "scaler" in saved:
        accelerator.scaler.load_state_dict(saved["scaler"])
    return average
