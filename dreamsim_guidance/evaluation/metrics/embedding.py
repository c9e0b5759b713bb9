"""Embeddings of picture files, each read once, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, resize

__all__ = ["directions"]

_BATCH = 16


def directions(metric: DreamSim, files: Sequence[Path], progress: bool = True) -> Float[Tensor, "n d"]:
    """Return the unit vectors of the pictures, in order; half the squared chord between two is the metric's distance.

    `progress` shows a bar on stderr, if there are more than a few. Errors as `load_image`.
    """
    batches = []
    with (
        torch.inference_mode(),
        tqdm(total=len(files), unit="image", disable=not progress or len(files) <= _BATCH) as bar,
    ):
        for batch in _batches(files, metric):
            batches.append(metric.target(batch.to(metric.device)).directions)
            bar.update(len(batch))
    return torch.cat(batches)


def _batches(files: Sequence[Path], metric: DreamSim) -> Iterator[Tensor]:
    """Images of one shape, a few at a time; resized to the branches' square while reading, if all branches share one."""
    sizes = {config.image_size for config in metric.ensemble.configs}
    batch: list[Tensor] = []
    for file in files:
        image = load_image(file)
        if len(sizes) == 1:
            image = resize(image, (min(sizes), min(sizes)))
        if batch and (len(batch) == _BATCH or batch[0].shape != image.shape):
            yield torch.cat(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.cat(batch)
