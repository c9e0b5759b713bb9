"""The settings of the loss on votes, without importing torch, so that recipes are listed and shown at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Kind", "VoteLossConfig"]

Kind = Literal["hinge", "logistic", "bradley_terry"]


@dataclass(frozen=True)
class VoteLossConfig:
    """Which of the losses in `vote_losses.py`, and its parameters, both in units of distance."""

    kind: Kind = "hinge"
    margin: float = 0.05
    """Of the hinge, at least 0."""
    temperature: float = 0.05
    """Of the two others, above 0; a learned one starts from it."""
    learned: bool = False
    """Learn the temperature with the metric, one for each set, also with "logistic"; with "bradley_terry" it always is."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown loss '{self.kind}'; known: {', '.join(get_args(Kind))}.")
        if not (self.margin >= 0 and math.isfinite(self.margin)):
            raise ValueError(f"margin must be a number from 0 on, got {self.margin}.")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be a positive number, got {self.temperature}.")
        if self.learned and self.kind == "hinge":
            raise ValueError("the hinge has a margin and no temperature to learn; use kind='logistic'.")
