"""Weights that change over the steps of an optimisation or of a sampler.

A schedule is a pure function from a step (0, 1, 2, ...) to a number. Multiplied by a loss, it becomes the weight of that
term, which `loss.at(step)` evaluates:

    loss = target + Cosine(1.0, 0.1, steps=400) * L1(image)
    loss.at(100)(candidate)
"""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

__all__ = ["Constant", "Cosine", "Linear", "Piecewise", "Schedule", "as_schedule", "is_number"]


class Schedule:
    """A function from a step, 0 at first, to a weight. Subclasses are frozen dataclasses that define `__call__`."""

    def __call__(self, step: int | float) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step) -> float")

    def __mul__(self, other: Any) -> Any:
        if not (isinstance(other, Schedule) or is_number(other)):
            return NotImplemented  # a loss then multiplies itself by this schedule
        a, b = as_schedule(other, "a schedule"), self
        if isinstance(a, Constant) and isinstance(b, Constant):
            return Constant(a.value * b.value)
        return a if b == Constant(1.0) else b if a == Constant(1.0) else _Product(a, b)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Schedule:
        if not is_number(other):
            return NotImplemented
        return self * (1 / float(other))

    def __neg__(self) -> Schedule:
        return self * -1.0


@dataclass(frozen=True)
class Constant(Schedule):
    """The same weight at every step."""

    value: int | float

    def __call__(self, step: int | float) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from `start` to `stop` in `steps` steps, then `stop`; `Linear(0, 1, steps=100)` is a warm-up.

    Raises ValueError for fewer steps than 1.
    """

    start: int | float
    stop: int | float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, step: int | float) -> float:
        return self.start + (self.stop - self.start) * _progress(step, self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine, flat at both ends, from `start` to `stop` in `steps` steps, then `stop`.

    Raises ValueError for fewer steps than 1.
    """

    start: int | float
    stop: int | float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, step: int | float) -> float:
        return self.stop + (self.start - self.stop) * (1 + math.cos(math.pi * _progress(step, self.steps))) / 2


@dataclass(frozen=True)
class Piecewise(Schedule):
    """Straight lines through points `(step, weight)` with rising steps; constant before the first and after the last.

    `Piecewise((0, 0.0), (50, 1.0), (300, 1.0), (400, 0.1))` warms up, holds and decays. Raises ValueError for no points and for
    steps that do not rise.
    """

    points: tuple[tuple[int | float, int | float], ...]

    def __init__(self, *points: tuple[int | float, int | float]) -> None:
        steps = [step for step, _ in points]
        if not points or any(b <= a for a, b in itertools.pairwise(steps)):
            raise ValueError(f"points must be (step, weight) pairs with rising steps, got {points}.")
        object.__setattr__(self, "points", tuple((step, weight) for step, weight in points))

    def __repr__(self) -> str:
        return f"Piecewise({', '.join(map(str, self.points))})"

    def __call__(self, step: int | float) -> float:
        steps = [s for s, _ in self.points]
        after = bisect.bisect_right(steps, step)
        if after == 0 or after == len(steps):
            return float(self.points[max(after - 1, 0)][1])
        (s0, w0), (s1, w1) = self.points[after - 1], self.points[after]
        return w0 + (w1 - w0) * (step - s0) / (s1 - s0)


@dataclass(frozen=True)
class _Product(Schedule):
    a: Schedule
    b: Schedule

    def __repr__(self) -> str:
        return f"{self.a.value if isinstance(self.a, Constant) else self.a} * {self.b}"

    def __call__(self, step: int | float) -> float:
        return self.a(step) * self.b(step)


def as_schedule(weight: Any, of: str) -> Schedule:
    """`weight` itself if it is a schedule, a `Constant` if it is a finite number.

    of: what is scaled, for the message. Raises TypeError for other types, ValueError for a number that is not finite.
    """
    if isinstance(weight, Schedule):
        return weight
    if not is_number(weight):
        fix = "use float(weight)" if isinstance(weight, Tensor) else "for a weight that changes use a Schedule"
        raise TypeError(f"{of} is scaled by a number or a Schedule, got {type(weight).__name__}; {fix}.")
    if not math.isfinite(weight):
        raise ValueError(f"{of} must be scaled by a finite number, got {weight}.")
    return Constant(float(weight))


def is_number(value: Any) -> bool:
    """Whether `value` is a real number of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")


def _progress(step: int | float, steps: int) -> float:
    return min(max(step / steps, 0.0), 1.0)
