"""Who is calling, and with what: read from the running call of a pipeline, which tells it nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["argument_of_call", "calls_itself", "images_per_prompt", "is_of_another_pipeline"]

_OWN = ("dreamsim_guidance.guidance", "dreamsim_guidance.pipelines", "jaxtyping", "beartype")
"""This package, and what may check its types at run time."""


def _frames() -> Iterator[FrameType]:
    """The functions that are running, from the innermost outwards, without this package's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not str(frame.f_globals.get("__name__")).startswith(_OWN):
            yield frame
        frame = frame.f_back


def _of_diffusers(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("diffusers")


def _works_for(pipe: Any, frame: FrameType) -> bool:
    """Whether a function is the pipeline's own, or a block of a modular pipeline, which is handed the pipeline."""
    known = frame.f_locals
    return known.get("self") is pipe or (_of_diffusers(frame) and any(value is pipe for value in known.values()))


def calls_itself(pipe: Any) -> bool:
    """Whether the function that called this package works for the pipeline."""
    return _works_for(pipe, next(_frames()))


def is_of_another_pipeline(pipe: Any, scheduler: Any) -> bool:
    """Whether the running call is that of another pipeline which has the same scheduler."""
    for frame in _frames():
        caller = frame.f_locals.get("self")
        if caller is pipe:
            return False
        if _of_diffusers(frame) and getattr(caller, "scheduler", None) is scheduler:
            return True
    return False


def argument_of_call(pipe: Any, *names: str) -> Any:
    """The value of the first of these names that the pipeline's running call knows; None if it knows none."""
    for frame in _frames():
        if not _works_for(pipe, frame):
            continue
        known = frame.f_locals
        for name in names:
            if known.get(name) is not None:
                return known[name]
            for state in (known.get("block_state"), known.get("state")):  # of modular pipelines
                values = getattr(state, "values", None)
                found = values.get(name) if isinstance(values, dict) else getattr(state, name, None)
                if found is not None:
                    return found
    return None


def images_per_prompt(pipe: Any) -> int:
    """How many images the running call makes of each prompt."""
    count = argument_of_call(pipe, "num_images_per_prompt", "num_videos_per_prompt")
    return count if isinstance(count, int) and count > 0 else 1
