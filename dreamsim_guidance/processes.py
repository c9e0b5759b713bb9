"""The same work on any number of processes: each takes its share of the rows, and all get the whole.

Nothing needs to be said to the code: processes that `accelerate launch` or `torchrun` started find each other through
accelerate, one process alone does everything. All of them must ask for the same, or one in `alone`. A failure in one is
raised in all, so that none waits for ever.
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
"""A process whose share is done waits for the others; the backends' own limits are minutes."""

_BLOCK = 4096
"""Rows that are exchanged at a time, to bound the memory."""

_alone = False

T = TypeVar("T")


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return not _alone and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is done in this block is done by this process for itself; the others need not come."""
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
    """`device`, else this process's own accelerator, else the only one, else the CPU."""
    if device is not None:
        return device
    if launched():
        return str(process_state().device)
    return default_device()


def divided(count: int, work: Callable[[range], NDArray[Any]]) -> NDArray[Any]:
    """Rows `(count, ...)` in order, where `work(range)` makes those of a share of the positions.

    Raises what `work` raises, or RuntimeError in the processes where it did not.
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
    """What `work` returns in this process, once it has succeeded in all. Raises as `divided`."""
    if not launched():
        return work()
    from accelerate.utils import gather_object

    process_state()
    found: list[T] = []
    failure: Exception | None = None
    try:
        found.append(work())
    except Exception as error:
        failure = error
    told = gather_object([None if failure is None else str(failure)])
    if failure is not None:
        raise failure
    if failed := [text for text in told if text is not None]:
        raise RuntimeError(f"another process failed: {failed[0]}")
    return found[0]


def everywhere(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where `mask` is True in all processes."""
    if not launched():
        return mask
    from accelerate.utils import gather_object

    process_state()
    return np.logical_and.reduce(gather_object([mask]))


def process_state(on_cpu: bool | None = None) -> Any:
    """accelerate's state; a new one is of the CPU if `on_cpu`, by default if that was asked for or there is nothing else."""
    from accelerate import PartialState

    if on_cpu is None:
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return PartialState(cpu=on_cpu or not torch.accelerator.is_available(), timeout=_PATIENCE)
