"""Which steps of a run are guided, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dreamsim_guidance.guidance.method import Method

__all__ = ["Timing"]


@dataclass(frozen=True)
class Timing:
    """The steps that are guided.

    window: first and last share of the run, 0 <= first <= last <= 1; the last is excluded.
    every: guide each k-th step of the window, beginning with its first; at least 1.
    schedule: from the share of the run that is done, in [0, 1), to a factor on the strength, at least 0; by default 1.

    Raises `ValueError` for a window or an `every` outside these bounds, `TypeError` for a schedule that is not a function.
    """

    window: tuple[int | float, int | float] = (0.0, 1.0)
    every: int = 1
    schedule: Callable[[float], int | float] | None = None

    def __post_init__(self) -> None:
        try:
            first, last = self.window
            in_order = 0 <= first <= last <= 1
        except (TypeError, ValueError):
            in_order = False
        if not in_order:
            raise ValueError(f"window must be two shares of the run in order, such as (0.0, 0.8), got {self.window}.")
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {self.every!r}.")
        if self.schedule is not None and not callable(self.schedule):
            raise TypeError(f"schedule must be a function, got {type(self.schedule).__name__}.")

    def includes(self, index: int, total: int) -> bool:
        """Whether step `index` of `total` is one of these steps."""
        first, last = self.window
        if not first <= index / total < last:
            return False
        return (index - math.ceil(first * total - 1e-9)) % self.every == 0

    def strength(self, method: Method, index: int, total: int) -> float:
        """The method's strength in step `index` of `total`, 0 for steps that are not guided.

        Raises `ValueError` if the schedule returns something else than a finite factor of at least 0.
        """
        if not self.includes(index, total):
            return 0.0
        factor = 1.0 if self.schedule is None else self.schedule(index / total)
        try:
            valid = math.isfinite(factor) and factor >= 0
        except TypeError:
            valid = False
        if not valid:
            raise ValueError(
                f"schedule must return finite factors >= 0, got {factor} at {index / total:.2f} of the run."
            )
        return method.strength * float(factor)
