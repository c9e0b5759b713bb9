"""Pictures of a data set: checked before a run, then decoded and resized in worker processes.

Files are read by `files.pictures` and resized to a square by PIL's antialiased bicubic filter in 8 bits, as the original
package does. Processes exchange uint8, a quarter of the traffic of float32; divided by 255 the pictures are the
original's tensors, except for files whose two readings differ (see `files.pictures`). `check_pictures` warns of those.
"""

from __future__ import annotations

import os
import warnings
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

from dreamsim_guidance.files.pictures import PictureError, Reading, read_rgb, readings_differ
from dreamsim_guidance.processes import is_main

__all__ = ["Pictures", "check_pictures", "decode", "differing", "load_pictures", "warn_of_reading"]

_NAMED_BROKEN, _NAMED_DIFFERING = 5, 20
"""Number of pictures that the error and the warning name; they count the others."""


class Pictures(Dataset[Tensor]):
    """Files as tensors `(3, size, size)` uint8, RGB, by position; for a `DataLoader`.

    paths: the files, in order.
    size: side of the square in pixels, at least 1.
    reading: "upright" or "original", see `files.pictures`.

    Items raise FileNotFoundError for a missing file, ValueError with its name for one that cannot be read.
    """

    def __init__(self, paths: Sequence[Path], size: int = 224, reading: Reading = "upright") -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}.")
        self.paths = tuple(paths)
        self.size = size
        self.reading = reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 size size"]:
        return decode(self.paths[index], (self.size, self.size), self.reading)


def decode(path: Path, size: tuple[int, int] | None = None, reading: Reading = "upright") -> UInt8[Tensor, "3 h w"]:
    """Read a picture in 8 bits and resize it to `size` = (height, width), by default not at all.

    Raises FileNotFoundError, or ValueError for a file that cannot be read.
    """
    rgb = read_rgb(path, reading)
    if size is not None:
        rgb = rgb.resize(size[::-1], PILImage.Resampling.BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def load_pictures(
    paths: Sequence[Path], size: int = 224, workers: int = 0, batch: int = 64, reading: Reading = "upright"
) -> Iterator[UInt8[Tensor, "b 3 size size"]]:
    """Read the pictures in order, `batch` at a time, in `workers` processes or, for 0, in this one. Errors as `Pictures`."""
    yield from DataLoader(Pictures(paths, size, reading), batch_size=batch, num_workers=workers)


def check_pictures(
    paths: Sequence[Path], workers: int | None = None, progress: bool = True, reading: Reading = "upright"
) -> int:
    """Decode every distinct picture once and return their number; warn of those whose two readings differ.

    paths: the files; one that occurs several times is read once.
    workers: threads (PIL decodes outside of Python's lock), by default one for each of up to 8 processors.
    progress: whether to show a bar on stderr.
    reading: how the pictures will be read, for the text of the warning.

    Raises ValueError if any is missing or broken, with their number, the first of them, and why.
    """
    distinct = list(dict.fromkeys(paths))
    warn_of_reading(differing(distinct, workers, progress), reading)
    return len(distinct)


def differing(paths: Sequence[Path], workers: int | None = None, progress: bool = True) -> list[Path]:
    """The files whose two readings differ; every file is decoded. Arguments and errors as `check_pictures`."""
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        results = list(
            tqdm(pool.map(_inspect, paths), total=len(paths), unit="picture", desc="check", disable=not progress)
        )
    broken = [f"'{path}' ({fault})" for path, (fault, _) in zip(paths, results, strict=True) if fault]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(paths)} pictures cannot be read: {_first(broken, _NAMED_BROKEN)}; "
            "get them again, or take their rows out of the set."
        )
    return [path for path, (_, differs) in zip(paths, results, strict=True) if differs]


def warn_of_reading(paths: Sequence[Path], reading: Reading) -> None:
    """Give one warning, on the main process, that names the files whose two readings differ.

    paths: those files; without any there is no warning.
    reading: the reading that is used.
    """
    if not paths or not is_main():
        return
    names = _first([f"'{path}'" for path in paths], _NAMED_DIFFERING)
    if reading == "original":
        text = f"as the original package does, not turned upright and with values above 8 bits clipped: {names}"
    else:
        text = (
            f"otherwise than by the original package, turned upright by their EXIF tag or scaled from more than 8 bits: "
            f"{names}; reading 'original' reads them as it does"
        )
    # always attributed to this line, so that Python shows the warning once although every metric reads the same pictures
    warnings.warn(f"{len(paths)} picture{'s are' if len(paths) > 1 else ' is'} read {text}.", stacklevel=1)


def _first(names: Sequence[str], count: int) -> str:
    more = f", and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _inspect(path: Path) -> tuple[str | None, bool]:
    """The reason why a picture cannot be decoded, or None, and whether its two readings differ."""
    try:
        return None, readings_differ(path)
    except FileNotFoundError:
        return "missing", False
    except PictureError as error:
        return error.reason, False
