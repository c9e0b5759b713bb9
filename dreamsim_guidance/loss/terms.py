"""The terms of a loss: their weighted sum, their names, and the check that each has one value per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dreamsim_guidance.schedule import Schedule

__all__ = ["Entry", "check_values", "describe", "distinct", "weighted"]


class Entry(NamedTuple):
    """One term of a sum: its name, the schedule of its weight, and a `Loss` or `PairLoss`."""

    name: str
    weight: Schedule
    loss: Any


def weighted(entries: Sequence[Entry], terms: dict[str, Tensor]) -> Tensor:
    """The sum of the terms, each times its weight at step 0, `(b,)`; there must be at least one term."""
    total: Tensor | None = None
    for name, weight, _ in entries:
        factor = weight(0)
        value = terms[name] if factor == 1 else factor * terms[name]
        total = value if total is None else total + value
    assert total is not None  # a sum is made of at least one term
    return total


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
