"""A network as a metric of picture files: each distinct picture is embedded once, or read from the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dreamsim_guidance.data.pictures import check_pictures
from dreamsim_guidance.evaluation.metrics.differentiable import ImageMetric
from dreamsim_guidance.evaluation.metrics.embedding_cache import EmbeddingCache
from dreamsim_guidance.evaluation.metrics.picture_files import read_batches
from dreamsim_guidance.evaluation.metrics.work import Work
from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.metric.distance import half_chord
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.fingerprint import fingerprint
from dreamsim_guidance.processes import divided, everywhere, is_main
from dreamsim_guidance.types import Distance, Image

__all__ = ["EmbeddingMetric"]

Rows = NDArray[np.float32]

_BATCH = 32
_CHUNK = 4096
"""Pairs at a time, to bound the memory."""
_KEPT_IMAGES, _KEPT_SECONDS = 512, 30.0
"""Embeddings are written to disk after so many images or seconds; an interruption loses no more than that."""


class EmbeddingMetric:
    """Distances of a `DreamSim` (any ensemble of branches) from embeddings, each computed once.

    name: under which the metric is reported.
    cache: where embeddings are kept between runs; None, the default, keeps none.
    workers: processes that read and resize pictures ahead; by default none.
    batch: images that go through the network at once; by default 32.

    After `distances`, `work` says how much was computed.
    """

    def __init__(
        self,
        name: str,
        metric: DreamSim,
        cache: EmbeddingCache | None = None,
        workers: int = 0,
        batch: int = _BATCH,
        reading: Reading = "upright",
    ) -> None:
        self.name = name
        self.metric = metric
        self.cache = cache
        self.workers = workers
        self.batch = batch
        self.reading = reading
        self.work: Work | None = None

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        """Return half the squared chord between the two directions, in [0, 2], for each pair, `(n,)`.

        Raises ValueError that names pictures that cannot be read, and for distances that are not finite.
        """
        files = list(dict.fromkeys(file for pair in pairs for file in pair))
        place = {file: i for i, file in enumerate(files)}
        rows = self.directions(files, progress)
        left, right = (np.array([place[pair[side]] for pair in pairs], dtype=np.int64) for side in (0, 1))
        distances = np.empty(len(pairs))
        for first in range(0, len(pairs), _CHUNK):
            part = slice(first, first + _CHUNK)
            difference = rows[left[part]].astype(np.float64) - rows[right[part]]
            distances[part] = 0.5 * np.square(difference).sum(1)
        if not np.isfinite(distances).all():
            a, b = pairs[int((~np.isfinite(distances)).argmax())]
            raise ValueError(f"{self.name} is not finite, first between '{a}' and '{b}'; look at its weights.")
        return distances

    def directions(self, files: Sequence[Path], progress: bool = True) -> Rows:
        """Return the unit vectors of the pictures, `(n, d)`, in order; several processes share the work."""
        progress = progress and is_main()
        key, names, first = "", [str(file) for file in files], list(range(len(files)))
        row_of: dict[str, Rows] = {}
        if self.cache is None:
            divided(len(files), lambda share: self._checked([files[i] for i in share], progress))
        else:
            names = self._digests(files, progress)
            _, places = np.unique(np.array(names), return_index=True)  # files of equal content are embedded once
            first, key = [int(i) for i in np.sort(places)], self.key
            row_of = self.cache.read(key, names)

        def keep(positions: Sequence[int], rows: Rows) -> None:
            if self.cache is not None:
                self.cache.write(key, [names[i] for i in positions], rows)

        # processes may have different caches, but must agree on what remains to be embedded
        cached = everywhere(np.array([names[i] in row_of for i in first]))
        missing = [i for i, is_cached in zip(first, cached, strict=True) if not is_cached]
        start = time.perf_counter()
        if missing:
            rows = divided(len(missing), lambda share: self._embed([missing[j] for j in share], files, keep, progress))
            row_of.update((names[i], row) for i, row in zip(missing, rows, strict=True))
        self.work = Work(len(first), len(missing), time.perf_counter() - start)
        return np.stack([row_of[name] for name in names])

    def on_images(self) -> ImageMetric:
        """Return the metric on images at the largest branch's square."""
        size = max(config.image_size for config in self.metric.ensemble.configs)
        device = str(self.metric.device)
        return ImageMetric(self._towards, size, device, self.batch, self.workers, self.reading, self.metric)

    def _towards(self, references: Image) -> Callable[[Image], Distance]:
        with torch.no_grad():  # references are fixed: no graph through their embeddings
            directions = self.metric.directions(references)
        return lambda images: half_chord(self.metric.directions(images), directions)

    @property
    def key(self) -> str:
        """The cache's key, which identifies the weights and the preprocessing."""
        settings = {"version": 2, "reading": self.reading, "size": self._size, "pillow": PIL.__version__}
        return fingerprint(self.metric, settings)

    @property
    def _size(self) -> tuple[int, int] | None:
        """The branches' square if they share one; else each resizes the whole picture for itself."""
        sizes = {config.image_size for config in self.metric.ensemble.configs}
        return (min(sizes), min(sizes)) if len(sizes) == 1 else None

    def _digests(self, files: Sequence[Path], progress: bool) -> list[str]:
        cache = self.cache
        assert cache is not None
        digests = divided(
            len(files),
            lambda share: np.array(
                cache.digests([files[i] for i in share], self.workers, progress, self.reading), "S64"
            ),
        )
        return [name.decode() for name in digests]

    def _checked(self, files: Sequence[Path], progress: bool) -> NDArray[np.bool_]:
        check_pictures(files, self.workers or None, progress, self.reading)
        return np.ones(len(files), dtype=bool)

    def _embed(
        self, missing: Sequence[int], files: Sequence[Path], keep: Callable[[Sequence[int], Rows], None], progress: bool
    ) -> Rows:
        """Rows of the missing pictures; they are handed to `keep` along the way, and also if something stops the work."""
        rows: list[Rows] = []
        saved, last = 0, time.monotonic()
        with tqdm(total=len(missing), desc=self.name, unit="image", disable=not progress) as bar:
            try:
                for batch in self._batches([files[i] for i in missing]):
                    rows.extend(self._rows(batch))
                    bar.update(len(batch))
                    if len(rows) - saved >= _KEPT_IMAGES or time.monotonic() - last >= _KEPT_SECONDS:
                        keep(missing[saved : len(rows)], np.stack(rows[saved:]))
                        saved, last = len(rows), time.monotonic()
            finally:
                if len(rows) > saved:
                    keep(missing[saved : len(rows)], np.stack(rows[saved:]))
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def _rows(self, batch: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = batch.to(self.metric.device).to(torch.promote_types(self.metric.dtype, torch.float32)) / 255
            return self.metric.directions(images).float().cpu().numpy()

    def _batches(self, files: Sequence[Path]) -> Iterator[Tensor]:
        """Batches of pictures of one shape, in order."""
        for pictures in read_batches(files, self._size, self.batch, self.workers, self.reading):
            start = 0
            for i in range(1, len(pictures) + 1):
                if i == len(pictures) or pictures[i].shape != pictures[start].shape:
                    yield torch.stack(pictures[start:i])
                    start = i
