"""What an adversary may do to a picture: the norm and the radius of its change, and how many steps it takes to find it.

This file imports no torch, so that recipes and the command line read attacks at once; `pgd.py` carries them out.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Attack", "Norm"]

Norm = Literal["linf", "l2"]
"""linf bounds the change of every value of every pixel; l2 bounds the Euclidean length of the whole change."""

_FORM = re.compile(r"(?P<norm>[a-z0-9]+):(?P<number>(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)(?:/(?P<divisor>\d+))?")


@dataclass(frozen=True)
class Attack:
    """Projected gradient descent within a ball around a picture with values in [0, 1].

    norm: "linf" or "l2".
    radius: of the ball, above 0, in units of [0, 1]: 4 / 255 are four grey levels. At most 1 for "linf".
    steps: of the gradient, at least 1; 10 by default.
    step_size: length of a step in the same norm; None, the default, takes 2.5 radius / steps (Madry et al.).

    Raises ValueError for values outside these ranges.
    """

    norm: Norm = "linf"
    radius: float = 4 / 255
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(f"unknown norm '{self.norm}'; known: {', '.join(get_args(Norm))}.")
        if not (self.radius > 0 and math.isfinite(self.radius)) or (self.norm == "linf" and self.radius > 1):
            raise ValueError(
                f"the radius of an attack is a positive number, at most 1 for linf, got {self.radius}; pictures have values in "
                "[0, 1], so that four grey levels are 4/255."
            )
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"an attack needs a whole number of steps, at least 1 step, got {self.steps}.")
        if self.step_size is not None and not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise ValueError(f"the step size of an attack is a positive number, got {self.step_size}.")

    @classmethod
    def parse(cls, text: str, steps: int = 10) -> Attack:
        """Return the attack that a text such as "linf:4/255" or "l2:1.5" names. Raises ValueError for another form."""
        match = _FORM.fullmatch(text.strip())
        if match is None or match["norm"] not in get_args(Norm):
            raise ValueError(
                f"an attack is written NORM:RADIUS with the norm linf or l2, as linf:4/255 or l2:1.5, got '{text}'."
            )
        divisor = int(match["divisor"] or 1)
        if divisor == 0:
            raise ValueError(f"the attack '{text}' divides by 0; write linf:4/255 or l2:1.5.")
        return cls(match["norm"], float(match["number"]) / divisor, steps)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """The form that `parse` reads; radii of "linf" that are whole grey levels as n/255."""
        levels = round(self.radius * 255)
        if self.norm == "linf" and levels and math.isclose(levels, self.radius * 255, rel_tol=1e-9):
            return f"linf:{levels}/255"
        return f"{self.norm}:{self.radius:.6g}"

    @property
    def step(self) -> float:
        """The length of a step."""
        return 2.5 * self.radius / self.steps if self.step_size is None else self.step_size
