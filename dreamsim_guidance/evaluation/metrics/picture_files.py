"""Pictures of any size as the original's evaluation reads them: PIL, RGB, squashed by PIL's bicubic filter, 8 bits.

As there, the tag that says which side is up (EXIF) is not looked at, and alpha is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dreamsim_guidance.data.pictures import UNREADABLE, decode

__all__ = ["in_order", "read_batches", "read_picture"]


def read_picture(file: Path, size: tuple[int, int] | None = None) -> UInt8[Tensor, "3 h w"]:
    """The picture in 8 bits, squashed to `size` = (height, width) if given.

    Raises ValueError for a file that is missing, incomplete, or no picture.
    """
    try:
        return decode(file, size)
    except UNREADABLE as error:
        raise ValueError(f"'{file}' cannot be read as an image ({error}); replace it by a complete picture.") from error


def read_batches(
    files: Sequence[Path], size: tuple[int, int] | None, batch: int, workers: int = 0
) -> Iterator[list[Tensor]]:
    """The pictures in order, up to `batch` at a time, read ahead by `workers` processes. Errors as `read_picture`."""
    return in_order(_Pictures(files, size), batch, workers)


def in_order(items: Dataset[Any], batch: int, workers: int = 0) -> Iterator[list[Any]]:
    """Lists of `batch` items. An item that is an exception is raised: as itself, also out of a worker."""
    loader = DataLoader(
        items, batch_size=batch, num_workers=workers, collate_fn=list, prefetch_factor=4 if workers else None
    )
    for found in loader:
        for item in found:
            if isinstance(item, Exception):
                raise item
        yield found


class _Pictures(Dataset[Any]):
    def __init__(self, files: Sequence[Path], size: tuple[int, int] | None) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor | Exception:
        try:
            return read_picture(self.files[i], self.size)
        except ValueError as error:
            return error
