"""The terms of a loss: their weights, their weighted sum, their names, and the check that each has one value per image."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from dreamsim_guidance.schedule import Constant, Schedule

__all__ = ["Entry", "check_values", "describe", "distinct", "scheduled_weights", "weight_at", "weighted"]


class Entry(NamedTuple):
    """One term of a sum: its name, the schedule of its weight, and a `Loss` or `PairLoss`."""

    name: str
    weight: Schedule
    loss: Any


def weighted(entries: Sequence[Entry], terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms, each times its weight at step 0, `(b,)`; there must be at least one term."""
    total: Tensor | None = None
    for name, weight, _ in entries:
        factor: float | Tensor = weight(0)
        # the value of a tensor is not asked for, which would wait for the device
        value = terms[name] if not isinstance(factor, Tensor) and factor == 1 else factor * terms[name]
        total = value if total is None else total + value
    assert total is not None  # a sum is made of at least one term
    return total


class _Weights(threading.local):
    values: list[float] | None = None
    memory: Tensor | None = None


_collected = _Weights()


@contextmanager
def scheduled_weights(memory: Tensor | None = None) -> Iterator[list[float]]:
    """List the scheduled weights of every `loss.at(step)` in the block, in their order, which is the same for all steps.

    memory: `(n,)`, float64; the loss then reads its n scheduled weights from there when it is called. A recorded loss
        (see `dreamsim_guidance.capture`) follows its schedule as the memory is filled with the weights of other steps.
    """
    before = _collected.values, _collected.memory
    _collected.values, _collected.memory = [], memory
    try:
        yield _collected.values
    finally:
        _collected.values, _collected.memory = before


def weight_at(weight: Schedule, step: int | float) -> Schedule:
    """A weight, fixed at its value for `step`."""
    values, memory = _collected.values, _collected.memory
    value = weight(step)
    if values is None or isinstance(weight, Constant):
        return Constant(value)
    values.append(value)
    return Constant(value) if memory is None else _InMemory(memory[len(values) - 1])


class _InMemory(Schedule):
    """A weight that is read from a tensor of no dimension each time a loss is called."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(self, step: int | float) -> Any:
        return self.value


def check_values(values: object, images: Tensor, name: str) -> Tensor:
    """Return the values of a loss for images, `(b,)`; raise TypeError or ValueError if they have another form."""
    expected = (images.shape[0],)
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must return a tensor of shape {expected}, got {type(values).__name__}.")
    if values.shape != expected:
        raise ValueError(
            f"{name} must return one value per image, shape {expected}, got {tuple(values.shape)}; "
            "reduce over everything but the batch, e.g. x.flatten(1).mean(1)."
        )
    if not values.is_floating_point():
        raise TypeError(f"{name} must return floating-point values, got {values.dtype}.")
    return values


def describe(value: object) -> str:
    """A value for a message: the type of a function or tensor, anything else as it is written."""
    return type(value).__name__ if callable(value) or isinstance(value, Tensor) else repr(value)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with `_2`, `_3`, ... behind those that occurred before."""
    taken: list[str] = []
    for name in names:
        candidate, count = name, 1
        while candidate in taken or (count > 1 and candidate in names):
            count += 1
            candidate = f"{name}_{count}"
        taken.append(candidate)
    return taken
