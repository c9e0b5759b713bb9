"""Checks of the values in a plan. Each raises ValueError that says what is needed and what came; None is left to defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dreamsim_guidance.files.names import printable, suggestion

__all__ = ["check_choice", "check_distinct", "check_real", "check_text", "check_whole"]

_LONGEST = 300
"""Characters of a text."""


def check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {value!r}.")
    if not value.strip() or value != value.strip():
        raise ValueError(f"{name} must be text without spaces around it, got {value!r}.")
    if printable(value) != value:
        raise ValueError(f"{name} must be one line of text without control characters, got {value!r}.")
    if len(value) > _LONGEST:
        raise ValueError(f"{name} has {len(value)} characters, at most {_LONGEST} are possible: {value[:40]!r}...")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}.")


def check_real(name: str, value: Any, low: int | float, high: int | float, above: bool = False) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        limits = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a number {limits}, got {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise ValueError(
            f"unknown {name} {value!r}{suggestion(str(value), choices)}; choose one of {', '.join(choices)}."
        )


def check_distinct(what: str, values: Sequence[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} '{value}' occurs twice in the plan; leave one out.")
        seen.add(value)
