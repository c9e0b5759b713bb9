"""What every guidance method is: a strength, and a function from one step to the next state."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from torch import Tensor

from dreamsim_guidance.guidance.step import Step

__all__ = ["Method"]


@dataclass(frozen=True)
class Method:
    """A guidance method; subclasses are frozen dataclasses, one paper each.

    strength: how much the loss counts. Unless a method's docstring says otherwise, its unit is nats per unit of loss and
        per element of the clean estimate: the method aims at the density p(x0) exp(-strength * n * loss(x0)), n elements.
        A distance that is a mean over the picture then needs the same strength at every size and in every family, since
        all families' clean estimates have about unit variance. 0 leaves the pipeline's output bit for bit as it was.
    """

    strength: int | float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            numeric = isinstance(field.default, float | int) and not isinstance(field.default, bool)
            optional = value is None and ("None" in kind or "Optional" in kind)
            if numeric and not optional and not _is_number(value):
                raise TypeError(f"{type(self).__name__}: {field.name} must be a number, got {value!r}.")
            if _is_number(value) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{type(self).__name__}: {field.name} must be a finite number >= 0, got {value}.")
            if isinstance(field.default, tuple) and not (
                isinstance(value, tuple | list) and len(value) == len(field.default) and all(map(_is_number, value))
            ):
                raise TypeError(
                    f"{type(self).__name__}: {field.name} must be {len(field.default)} numbers such as {field.default}, "
                    f"got {value!r}."
                )

    @property
    def through_denoiser(self) -> bool:
        """Whether the gradient passes through the denoiser, which costs a backward pass and its activations."""
        return False

    def __call__(self, step: Step) -> Tensor:
        """The next state."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step) -> next state")

    def repeats(self, progress: float) -> int:
        """How often the step at this share of the run is made (time travel)."""
        return 1

    def _check(self, right: bool, needed: str) -> None:
        if not right:
            raise ValueError(f"{type(self).__name__} needs {needed}, got {self}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
