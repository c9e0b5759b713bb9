"""Find out whether the host waits for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["waiting_is_an_error"]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Let every operation that makes the host wait for a CUDA device raise an error in this block.

    The mode is that of the whole process, so it is set back when the block ends, also by an error. Without a CUDA device
    nothing is changed.
    """
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    try:
        _set_mode("error")
        yield
    finally:
        _set_mode(before)


def _set_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)
