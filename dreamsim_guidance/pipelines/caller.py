"""Questions about a running call of a pipeline that can be answered from its stack frames only.

Nothing that a pipeline hands on says who called it, or with what. Frames are therefore read here, and nowhere else: when a
run is planned (`is_of_another_pipeline`), before its loop or else at its first step (`argument_of_call`), and when a decoder
is called after its last step (`calls_itself`); never step by step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["argument_of_call", "calls_itself", "images_per_prompt", "is_of_another_pipeline"]

_TRANSPARENT = ("dreamsim_guidance.pipelines", "jaxtyping", "beartype")
"""Modules whose frames are passed over: the interception itself, and packages that check its types at run time."""


def _frames() -> Iterator[FrameType]:
    """The running functions from the innermost outwards, without those of `_TRANSPARENT` modules."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not str(frame.f_globals.get("__name__")).startswith(_TRANSPARENT):
            yield frame
        frame = frame.f_back


def _of_diffusers(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("diffusers")


def _works_for(pipe: Any, frame: FrameType) -> bool:
    """Whether a function is the pipeline's own, or a block of a modular pipeline, which receives the pipeline."""
    variables = frame.f_locals
    return variables.get("self") is pipe or (
        _of_diffusers(frame) and any(value is pipe for value in variables.values())
    )


def calls_itself(pipe: Any) -> bool:
    """Whether the function that called the replaced method works for the pipeline.

    An autoencoder may also be called by the user's preview in a callback, or by another pipeline that shares it, with the
    very same latents.
    """
    return _works_for(pipe, next(_frames()))


def is_of_another_pipeline(pipe: Any, scheduler: Any) -> bool:
    """Whether the running call is that of another pipeline with the same scheduler.

    `scheduler.set_timesteps` is the first thing that many pipelines call, so no earlier call could have left a mark.
    """
    for frame in _frames():
        caller = frame.f_locals.get("self")
        if caller is pipe:
            return False
        if _of_diffusers(frame) and getattr(caller, "scheduler", None) is scheduler:
            return True
    return False


def argument_of_call(pipe: Any, *names: str) -> Any:
    """The value of the first of these variables that the pipeline's running call has set; None if there is none.

    Arguments such as `num_images_per_prompt` are used up in the pipeline's own function: what it passes on to others is a
    batch, in which prompts and images per prompt cannot be told apart.
    """
    for frame in _frames():
        if not _works_for(pipe, frame):
            continue
        variables = frame.f_locals
        for name in names:
            if variables.get(name) is not None:
                return variables[name]
            for state in (variables.get("block_state"), variables.get("state")):  # of modular pipelines
                values = getattr(state, "values", None)
                value = values.get(name) if isinstance(values, dict) else getattr(state, name, None)
                if value is not None:
                    return value
    return None


def images_per_prompt(pipe: Any) -> int:
    """How many images the running call makes of each prompt, at least 1."""
    count = argument_of_call(pipe, "num_images_per_prompt", "num_videos_per_prompt")
    return count if isinstance(count, int) and count > 0 else 1
