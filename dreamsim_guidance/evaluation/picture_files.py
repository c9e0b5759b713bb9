"""Pictures as the original's evaluation reads them: PIL, RGB, squashed by PIL's bicubic filter, 8 bits.

One deviation: pictures of 16 bits are scaled to 8, where the original clips them to white. As there, the tag that says
which side is up (EXIF) is not looked at.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dreamsim_guidance.preprocess import to_image

__all__ = ["check_pictures", "read_batches", "read_picture"]

_ERRORS = (UnidentifiedImageError, OSError, SyntaxError, ValueError, PILImage.DecompressionBombError)
_BICUBIC = PILImage.Resampling.BICUBIC


def read_picture(file: Path, size: tuple[int, int] | None = None) -> UInt8[Tensor, "3 h w"]:
    """The picture in 8 bits, squashed to `size` = (height, width) if given.

    Raises ValueError for a file that is missing, incomplete, or no picture.
    """
    try:
        with PILImage.open(file) as picture:
            deep = picture.mode == "F" or picture.mode.startswith("I")
            rgb = _shallow(picture) if deep else picture.convert("RGB")
    except _ERRORS as error:
        raise ValueError(f"'{file}' cannot be read as an image ({error}); replace it by a complete picture.") from error
    if size is not None:
        rgb = rgb.resize(size[::-1], _BICUBIC)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def read_batches(
    files: Sequence[Path], size: tuple[int, int] | None, batch: int, workers: int = 0
) -> Iterator[list[UInt8[Tensor, "3 _ _"]]]:
    """The pictures in order, up to `batch` at a time, read ahead by `workers` processes. Errors as `read_picture`."""
    return load(_Pictures(files, size), batch, workers)


def load(items: Dataset[Any], batch: int, workers: int) -> Iterator[list[Any]]:
    """Lists of `batch` items; an error that an item is stands for one that it met in a worker, and is raised here."""
    loader = DataLoader(
        items, batch_size=batch, num_workers=workers, collate_fn=list, prefetch_factor=4 if workers else None
    )
    for found in loader:
        for item in found:
            if isinstance(item, Exception):
                raise item
        yield found


def check_pictures(files: Sequence[Path], workers: int = 0, progress: bool = True) -> None:
    """Decode every file, coarsely where its format allows; ValueError names how many are broken, and the first ones."""
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        found = tqdm(
            pool.map(problem, files),
            total=len(files),
            desc="checking",
            unit="image",
            disable=not progress or len(files) < 100,
        )
        refuse_broken(files, list(found))


def refuse_broken(files: Sequence[Path], problems: Sequence[str | None]) -> None:
    broken = [f"'{file}' ({text})" for file, text in zip(files, problems, strict=True) if text]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(files)} pictures cannot be read: {', '.join(broken[:5])}"
            f"{', ...' if len(broken) > 5 else ''}; replace them by complete pictures, or take their rows out."
        )


def problem(file: Path, content: bytes | None = None) -> str | None:
    """Why the file (or its `content`, read already) is no complete picture; None if it is one."""
    try:
        with PILImage.open(file if content is None else io.BytesIO(content)) as picture:
            picture.draft("RGB", (64, 64))  # JPEG: the whole stream is parsed, at an eighth of the size
            picture.load()
    except _ERRORS as error:
        return " ".join(str(error).split()) or type(error).__name__
    return None


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


def _shallow(picture: PILImage.Image) -> PILImage.Image:
    pixels = (to_image(picture)[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return PILImage.fromarray(pixels)
