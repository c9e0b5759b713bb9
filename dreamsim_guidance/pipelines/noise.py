"""Random numbers as diffusers' schedulers draw them, and the states of their generators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Generators", "beside", "draw_noise", "generator_states", "set_generator_states"]

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One for the batch, one for each sample, or torch's global one."""


def draw_noise(like: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `like`, drawn on the generators' own device.

    The numbers are those of `diffusers.utils.torch_utils.randn_tensor` with the same generators.
    Raises `ValueError` for several generators that are not one for each sample.
    """
    generators = _listed(generator)
    if len(generators) not in (1, len(like)):
        raise ValueError(
            f"one generator, or one for each of the {len(like)} samples, is needed, got {len(generators)}."
        )
    drawn = [
        torch.randn(
            (len(like) // len(generators), *like.shape[1:]),
            generator=g,
            device=like.device if g is None else g.device,
            dtype=like.dtype,
        )
        for g in generators
    ]
    return torch.cat(drawn).to(like.device)


def beside(generator: Generators) -> Generators:
    """New generators seeded from these, which are not drawn from: their numbers belong to the sampler."""
    return [
        torch.Generator("cpu" if g is None else g.device).manual_seed(
            (torch.initial_seed() if g is None else g.initial_seed()) ^ 0x5EED
        )
        for g in _listed(generator)
    ]


def generator_states(generator: Generators, device: torch.device) -> list[Tensor]:
    """The current states of the generators."""
    return [_global_state(device) if g is None else g.get_state() for g in _listed(generator)]


def set_generator_states(generator: Generators, device: torch.device, states: Sequence[Tensor]) -> None:
    """Restore states from `generator_states`."""
    for g, state in zip(_listed(generator), states, strict=True):
        if g is not None:
            g.set_state(state)
        elif device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)


def _global_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _listed(generator: Generators) -> list[torch.Generator | None]:
    return list(generator) if isinstance(generator, Sequence) else [generator]
