"""Pictures from files: checked before a run, then decoded and resized in workers exactly as the original does.

The original opens a file with PIL, converts it to RGB (alpha dropped, grey repeated, EXIF orientation ignored) and
squashes it to a square with PIL's antialiased bicubic filter, in 8 bits. The same bytes leave here as uint8, a quarter
of the traffic between processes; divided by 255 they are the original's tensors.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

__all__ = ["UNREADABLE", "Pictures", "check_pictures", "decode", "load_pictures"]

_NAMED = 5
"""Broken pictures that a message names."""


class Pictures(Dataset[Tensor]):
    """Files as tensors `(3, size, size)` uint8, RGB, by position; for a `DataLoader`.

    A file that cannot be read is a ValueError with its name, a missing one a FileNotFoundError.
    """

    def __init__(self, paths: Sequence[Path], size: int = 224) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}.")
        self.paths = tuple(paths)
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 size size"]:
        path = self.paths[index]
        try:
            return decode(path, (self.size, self.size))
        except FileNotFoundError:
            raise FileNotFoundError(f"image not found: '{path}'.") from None
        except UNREADABLE as error:
            raise ValueError(f"'{path}' cannot be read as an image ({error}).") from error


def decode(path: Path, size: tuple[int, int] | None = None) -> UInt8[Tensor, "3 h w"]:
    """The picture in 8 bits, squashed to `size` = (height, width) if given. Raises FileNotFoundError or `UNREADABLE`."""
    with PILImage.open(path) as picture:
        rgb = picture.convert("RGB")
    if size is not None:
        rgb = rgb.resize(size[::-1], PILImage.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, PILImage.DecompressionBombError)
"""What PIL raises for broken files of its many formats."""


def load_pictures(
    paths: Sequence[Path], size: int = 224, workers: int = 0, batch: int = 64
) -> Iterator[UInt8[Tensor, "b 3 size size"]]:
    """The pictures in order, `batch` at a time, decoded in `workers` processes (0: in this one). Errors as `Pictures`."""
    yield from DataLoader(Pictures(paths, size), batch_size=batch, num_workers=workers)


def check_pictures(paths: Sequence[Path], workers: int | None = None, progress: bool = True) -> int:
    """Decode every distinct picture once and return how many there are.

    In `workers` threads (PIL decodes outside of Python's lock), by default one for each of up to 8 processors; a bar on
    stderr. Raises ValueError if any is missing or broken, with their number, the first of them, and why.
    """
    distinct = list(OrderedDict.fromkeys(paths))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        faults = list(
            tqdm(pool.map(_fault, distinct), total=len(distinct), unit="picture", desc="check", disable=not progress)
        )
    broken = [f"'{path}' ({fault})" for path, fault in zip(distinct, faults, strict=True) if fault]
    if broken:
        more = f", and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
        raise ValueError(
            f"{len(broken)} of {len(distinct)} pictures cannot be read: {', '.join(broken[:_NAMED])}{more}; "
            "get them again, or take their rows out of the set."
        )
    return len(distinct)


def _fault(path: Path) -> str | None:
    """Why a picture cannot be decoded, None if it can."""
    try:
        with PILImage.open(path) as picture:
            picture.load()
    except FileNotFoundError:
        return "missing"
    except UNREADABLE as error:
        # PIL's message for an unknown format repeats the path
        return "not a picture" if "cannot identify" in str(error) else str(error)
    return None
