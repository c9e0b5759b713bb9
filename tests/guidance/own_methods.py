"""Guidance methods as a user might write them, with fields of every kind; tests select them as `own_methods.Shifted`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dreamsim_guidance.guidance import Method, Step


@dataclass(frozen=True)
class Shifted(Method):
    """MPGD's move plus a constant, with types of fields that no method of this package has."""

    strength: int | float = 0.5
    shift: float = -1.0
    floor: float = float("-inf")
    names: tuple[str, ...] = ("a", "b")
    mode: int | str = 0
    notes: dict[str, Any] = field(default_factory=dict)

    through_guider = True

    def __call__(self, step: Step) -> Tensor:
        self.notes["shift"] = self.shift
        gradient = step.gradient()
        assert gradient.shape == step.x0.shape
        move = -self.strength * step.level.relative * gradient
        return step.with_state_kept(step.limit(move, 0.5) + 1e-3 * self.shift)


class Plain(Method):
    """No dataclass: a method with a constructor instead of fields."""

    def __init__(self, factor: float) -> None:
        self.__dict__["factor"] = factor

    def __call__(self, step: Step) -> Tensor:
        return step.with_noise_kept(step.limit(-self.factor * self.strength * step.gradient(), 0.5))


class Twice(Plain):
    """Makes each step in the first 30 % of the run twice."""

    def repeats(self, progress: float) -> int:
        return 2 if progress < 0.3 else 1
