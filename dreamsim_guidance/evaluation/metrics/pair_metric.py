"""A function of two batches of images as a metric of picture files: pixel differences, LPIPS, or a user's own function."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.evaluation.metrics.differentiable import ImageMetric
from dreamsim_guidance.evaluation.metrics.picture_files import UNREADABLE, in_order
from dreamsim_guidance.evaluation.metrics.work import Work
from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import divided, is_main

__all__ = ["Compare", "PairMetric"]

Compare = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images in [0, 1], `(b, 3, h, w)`, to distances `(b,)`; lower is more similar."""

_BATCH = 8
_MEMORY = 256 << 20
"""Bytes of decoded pictures that each worker keeps in memory; pairs are sorted by their first picture, so this helps."""


class PairMetric:
    """Distances from a function of two batches of images, computed once for each distinct pair.

    compare: the function.
    size: side of the square to which pictures are resized; with None, the default, they keep their size, and two pictures of
        different size are resized to the smaller height and width.
    symmetric: whether the order of a pair does not matter; by default it does.

    The other arguments, and `work`, are as for `EmbeddingMetric`; work is counted in pairs, by default 8 in a batch.
    """

    def __init__(
        self,
        name: str,
        compare: Compare,
        size: int | None = None,
        device: str = "cpu",
        workers: int = 0,
        batch: int = _BATCH,
        symmetric: bool = False,
        reading: Reading = "upright",
    ) -> None:
        self.name = name
        self.compare = compare
        self.size = size
        self.symmetric = symmetric
        self.device = device
        self.workers = workers
        self.batch = batch
        self.reading = reading
        self.work: Work | None = None

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        """Return one number for each pair, `(n,)`.

        Raises ValueError for pictures that cannot be read, and if the function returns another shape or numbers that are not
        finite.
        """
        ordered = [(b, a) if self.symmetric and b < a else (a, b) for a, b in pairs]
        distinct = sorted(dict.fromkeys(ordered))
        start = time.perf_counter()
        values = divided(len(distinct), partial(self._share, distinct, progress and is_main()))
        self.work = Work(len(distinct), len(distinct), time.perf_counter() - start, "pairs")
        place = {pair: i for i, pair in enumerate(distinct)}
        return values[[place[pair] for pair in ordered]]

    def on_images(self) -> ImageMetric:
        """Return the metric on images at the size to which it resizes pictures."""
        owner = getattr(self.compare, "__self__", None)
        return ImageMetric(
            lambda references: partial(self.compare, references),
            self.size,
            self.device,
            self.batch,
            self.workers,
            self.reading,
            owner if isinstance(owner, DreamSim) else None,
        )

    def _share(self, distinct: Sequence[tuple[Path, Path]], progress: bool, share: range) -> NDArray[np.float64]:
        own_pairs = [distinct[i] for i in share]
        distances = np.empty(len(own_pairs))
        with tqdm(total=len(own_pairs), desc=self.name, unit="pair", disable=not progress) as bar:
            finished = 0
            for items in in_order(_Pairs(own_pairs, self.size, self.reading), self.batch, self.workers):
                for shape in dict.fromkeys(a.shape for a, _ in items):
                    chosen = [i for i, (a, _) in enumerate(items) if a.shape == shape]
                    a, b = (torch.stack([items[i][side] for i in chosen]) for side in (0, 1))
                    distances[[finished + i for i in chosen]] = self._values(a, b, own_pairs[finished + chosen[0]])
                finished += len(items)
                bar.update(len(items))
        return distances

    def _values(self, a: Tensor, b: Tensor, first: tuple[Path, Path]) -> NDArray[np.float64]:
        with torch.inference_mode():
            values = self.compare(*(x.to(self.device).float() / 255 for x in (a, b)))
        if not isinstance(values, Tensor) or values.shape != (len(a),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{self.name} must return a tensor of one distance per image, ({len(a)},), got {got}.")
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"{self.name} is not finite for '{first[0]}' and '{first[1]}', or for another pair of that batch."
            )
        return values.double().cpu().numpy()


class _Pairs(Dataset[Any]):
    def __init__(self, pairs: Sequence[tuple[Path, Path]], size: int | None, reading: Reading) -> None:
        self.pairs, self.size, self.reading = pairs, size, reading
        self.kept: dict[tuple[Path, tuple[int, int] | None], Tensor] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor] | Exception:
        square = None if self.size is None else (self.size, self.size)
        try:
            a, b = (self._read(file, square) for file in self.pairs[i])
            if a.shape != b.shape:
                smaller = (min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2]))
                a, b = (self._read(file, smaller) for file in self.pairs[i])
        except UNREADABLE as error:
            return error
        return a, b

    def _read(self, file: Path, size: tuple[int, int] | None) -> Tensor:
        picture = self.kept.pop((file, size), None)
        if picture is None:
            picture = decode(file, size, self.reading)
            self.bytes += picture.nbytes
        self.kept[file, size] = picture  # moved to the end: the least recently used picture is dropped first
        while self.bytes > _MEMORY and len(self.kept) > 2:
            self.bytes -= self.kept.pop(next(iter(self.kept))).nbytes
        return picture
