"""Divide work among any number of processes: each does its share of the rows, and all get the whole result.

Callers need no switch: processes that `accelerate launch` or `torchrun` started find each other through accelerate, and a
single process does everything. All processes must make the same calls, except within `alone`. A failure in one process is
raised in all, so that no process waits for ever.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "agreed",
    "alone",
    "default_device",
    "divided",
    "everywhere",
    "is_main",
    "launched",
    "process_device",
    "process_state",
]

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others once its share is done; the backends' own limits are minutes."""

_BLOCK = 4096
"""Rows that are exchanged at once, to bound the memory."""

_alone = False

T = TypeVar("T")


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return not _alone and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In this block the process works for itself alone: the other processes need not make the same calls."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def is_main() -> bool:
    """Whether this process is the one that reports."""
    return int(os.environ.get("RANK", "0")) == 0


def default_device() -> str:
    """The device that is used where none is named: "cuda", "mps", "xpu", another accelerator of PyTorch's, or "cpu"."""
    for name, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps), ("xpu", torch.xpu)):
        if backend.is_available():  # type: ignore[attr-defined]
            return name
    other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if other is None else other.type


def process_device(device: str | None = None) -> str:
    """`device` if it is given, else the accelerator of this process if there are several processes, else `default_device()`."""
    if device is not None:
        return device
    if launched():
        return str(process_state().device)
    return default_device()


def divided(count: int, work: Callable[[range], NDArray[Any]]) -> NDArray[Any]:
    """All rows `(count, ...)` in order, where `work(positions)` computes the rows of a share of the positions.

    Raises what `work` raises, and RuntimeError in the processes whose own share succeeded.
    """
    if not launched():
        return work(range(count))
    from accelerate.utils import gather_object

    state = process_state()
    rows = agreed(lambda: work(range(state.process_index, count, state.num_processes)))
    shapes = gather_object([(rows.shape[1:], str(rows.dtype))])
    shape, dtype = shapes[0] if len(rows) == 0 else shapes[state.process_index]  # the first share is never the smaller
    whole = np.empty((count, *shape), dtype)
    for first in range(0, -(-count // state.num_processes), _BLOCK):
        for start, block in gather_object([(state.process_index, rows[first : first + _BLOCK])]):
            places = range(start, count, state.num_processes)[first : first + _BLOCK]
            whole[list(places)] = block.reshape(len(places), *shape)
    return whole


def agreed(work: Callable[[], T]) -> T:
    """What `work` returns in this process, once it has succeeded in all processes. Raises as `divided`."""
    if not launched():
        return work()
    from accelerate.utils import gather_object

    process_state()
    results: list[T] = []
    failure: Exception | None = None
    try:
        results.append(work())
    except Exception as error:
        failure = error
    messages = gather_object([None if failure is None else str(failure)])
    if failure is not None:
        raise failure
    if failures := [message for message in messages if message is not None]:
        raise RuntimeError(f"another process failed: {failures[0]}")
    return results[0]


def everywhere(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask that is True where `mask` is True in all processes."""
    if not launched():
        return mask
    from accelerate.utils import gather_object

    process_state()
    return np.logical_and.reduce(gather_object([mask]))


def process_state(on_cpu: bool | None = None) -> Any:
    """accelerate's state. A new one uses the CPU if `on_cpu`; by default, if that was requested or no accelerator exists."""
    from accelerate import PartialState

    if on_cpu is None:
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=on_cpu or not torch.accelerator.is_available(), timeout=_PATIENCE)
