"""Random crops of a folder's pictures for training, and whole pictures for judging, some of which are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.files.pictures import SUFFIXES
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.training.fit import step_generator
from dreamsim_guidance.types import Image
from dreamsim_guidance.views import random_crop

__all__ = ["CropBatches", "digest", "pictures_in", "split_off", "squares"]


def pictures_in(folder: Path) -> list[Path]:
    """All picture files in a folder and in folders inside it, in order. Raises ValueError if there are none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"'{folder}' holds no pictures ({', '.join(SUFFIXES)}); name a folder of pictures.")
    return files


def split_off(files: Sequence[Path], count: int, seed: int) -> tuple[list[Path], list[Path]]:
    """The files without `count` of them that `seed` chooses, and those. Raises ValueError if none would be left."""
    if len(files) <= count:
        raise ValueError(
            f"there are {len(files)} pictures, of which {count} are held out; add pictures, or lower held_out."
        )
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen = set(order[:count])
    return [f for i, f in enumerate(files) if i not in chosen], [f for i, f in enumerate(files) if i in chosen]


def digest(files: Sequence[Path], folder: Path) -> str:
    """A short hash of the files' names within `folder`, which identifies the set but for the pixels."""
    names = "\n".join(file.relative_to(folder).as_posix() for file in files)
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def squares(files: Sequence[Path], size: int) -> Image:
    """The central squares of pictures, resized to `(n, 3, size, size)` in [0, 1]."""
    cut = []
    for file in files:
        image = decode(file).float() / 255
        side = min(image.shape[-2:])
        top, left = (image.shape[-2] - side) // 2, (image.shape[-1] - side) // 2
        cut.append(resize(image[None, :, top : top + side, left : left + side], (size, size)).clamp(0, 1))
    return torch.cat(cut)


class CropBatches(Dataset[Tensor]):
    """Batches of random crops by step: item s is this process's share `(share, 3, size, size)` in [0, 1] of step s.

    `seed` and the step decide a batch, whatever the number of processes. Each crop is of a picture drawn at random.

    smallest: smallest side of a crop as a share of the picture's shorter side.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: int,
        batch: int,
        steps: int,
        seed: int,
        smallest: float = 0.5,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if batch % processes:
            raise ValueError(f"batch must be a multiple of the {processes} processes, got {batch}.")
        self.files, self.size, self.batch, self.steps, self.seed = tuple(files), size, batch, steps, seed
        self.smallest, self.process, self.processes = smallest, process, processes

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Float[Tensor, "b 3 size size"]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        return torch.cat([self._crop(step * self.batch + i) for i in range(self.process, self.batch, self.processes)])

    def _crop(self, number: int) -> Image:
        generator = step_generator(self.seed, number)
        file = self.files[int(torch.randint(len(self.files), (), generator=generator))]
        return random_crop(decode(file)[None].float() / 255, self.size, generator, self.smallest)
