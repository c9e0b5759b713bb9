"""Pictures of any size for the metrics of files: read one by one or in batches, ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.files.pictures import Reading

__all__ = ["UNREADABLE", "in_order", "read_batches"]

UNREADABLE = (FileNotFoundError, ValueError)
"""What `data.pictures.decode` raises for a missing or broken file."""


def read_batches(
    files: Sequence[Path], size: tuple[int, int] | None, batch: int, workers: int = 0, reading: Reading = "upright"
) -> Iterator[list[Tensor]]:
    """The pictures in order, `(3, h, w)` uint8, up to `batch` at a time, read ahead by `workers` processes.

    size: (height, width) to squash them to, None to leave them as they are.
    Raises FileNotFoundError or ValueError, with the name of the file that cannot be read.
    """
    return in_order(_Pictures(files, size, reading), batch, workers)


def in_order(items: Dataset[Any], batch: int, workers: int = 0) -> Iterator[list[Any]]:
    """Lists of `batch` items. An item that is an exception is raised, unchanged even if it comes out of a worker."""
    loader = DataLoader(
        items, batch_size=batch, num_workers=workers, collate_fn=list, prefetch_factor=4 if workers else None
    )
    for batch_of_items in loader:
        for item in batch_of_items:
            if isinstance(item, Exception):
                raise item
        yield batch_of_items


class _Pictures(Dataset[Any]):
    def __init__(self, files: Sequence[Path], size: tuple[int, int] | None, reading: Reading) -> None:
        self.files, self.size, self.reading = files, size, reading

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor | Exception:
        try:
            return decode(self.files[i], self.size, self.reading)
        except UNREADABLE as error:
            return error
