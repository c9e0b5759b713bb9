"""A training run's own accelerate state, so that the caller's `Accelerator` stays as it was.

accelerate keeps its settings (device, mixed precision, gradient accumulation) in dictionaries that all its objects in a
process share; it refuses a second `Accelerator` with other settings. A run therefore works on fresh dictionaries and puts
the caller's back when it ends, whether it succeeded or not. The caller's objects refer to their own dictionaries
throughout, so they also stay valid in other threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from accelerate.state import AcceleratorState, GradientState, PartialState

from dreamsim_guidance.processes import process_state

__all__ = ["own_accelerate_state"]

_SHARED = "_shared_state"


@contextlib.contextmanager
def own_accelerate_state() -> Iterator[str | None]:
    """Let the block create an `Accelerator` of any settings; afterwards accelerate's state is what it was before.

    The block works on the device of the caller's `Accelerator` or `PartialState`, if there is one. Processes that a
    launcher started stay connected to each other: the process group belongs to torch.distributed, not to this state.

    Yields the mixed precision of the caller's `Accelerator` ("no", "bf16", "fp16", "fp8"), None if there is none.
    """
    holders: tuple[type, ...] = (AcceleratorState, GradientState, PartialState)
    before = [vars(holder)[_SHARED] for holder in holders]
    precision = AcceleratorState().mixed_precision if AcceleratorState._shared_state else None
    device = PartialState().device if PartialState._shared_state else None
    for holder in holders:
        setattr(holder, _SHARED, {})
    try:
        process_state(on_cpu=None if device is None else device.type == "cpu")
        yield precision
    finally:
        for holder, shared in zip(holders, before, strict=True):
            setattr(holder, _SHARED, shared)
