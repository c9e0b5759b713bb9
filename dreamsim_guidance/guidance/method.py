"""What every guidance method is: a strength, and a function from one step to the next state."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

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
            value = getattr(self, field.name)
            if (
                isinstance(value, float | int)
                and not isinstance(value, bool)
                and not (math.isfinite(value) and value >= 0)
            ):
                raise ValueError(f"{type(self).__name__}: {field.name} must be a finite number >= 0, got {value}.")

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
