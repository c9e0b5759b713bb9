"""Exponential averages of the weights in training:

    average <- m average + (1 - m) weights,   m = min(momentum, (1 + n) / (10 + n))

after n updates. The small m of the first updates lets the average forget its start soon.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["AveragedCopy", "SwappedAverage"]


class AveragedCopy(nn.Module):
    """The average as a module of its own, `model`, which is saved along with the learner that holds it."""

    def __init__(self, module: nn.Module, momentum: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(module).requires_grad_(False).eval()
        self.momentum = momentum
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def update(self, module: nn.Module) -> None:
        """Move the average towards the weights of `module`."""
        self.steps += 1
        _move(self.model.parameters(), module.parameters(), self.momentum, int(self.steps))


class SwappedAverage:
    """The average of a model's trained parameters, which takes their place on demand.

    Works for replicated and sharded models too, which cannot be copied: each process averages its part.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        self.momentum = momentum
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.values: list[Tensor] = [p.detach().clone() for p in self.parameters]

    def update(self, updates: int) -> None:
        """Move the average towards the present weights; `updates` counts those before this one."""
        _move(self.values, self.parameters, self.momentum, updates)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights until the block ends."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self.values, self.parameters, strict=True):
            before = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(before)


@torch.no_grad()
def _move(averages: Iterable[Tensor], weights: Iterable[Tensor], momentum: float, updates: int) -> None:
    m = min(momentum, (1 + updates) / (10 + updates))
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1 - m)
