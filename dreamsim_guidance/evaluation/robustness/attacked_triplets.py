"""Distances of triplets while an adversary changes the candidate that the metric prefers.

The adversary starts from the picture as the metric reads it: resized to the metric's input square (for an ensemble of several
sizes to the largest), or at its own size for a metric without one. It sees the metric's gradient and raises the distance of the
preferred candidate to the reference, which is the same as raising the difference to the other candidate's distance. Reference
and other candidate stay as they are. The attacked picture is not rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.evaluation.metrics.differentiable import DifferentiableMetric, ImageMetric
from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric
from dreamsim_guidance.evaluation.metrics.picture_files import UNREADABLE, in_order
from dreamsim_guidance.evaluation.robustness.attack import Attack
from dreamsim_guidance.evaluation.robustness.pgd import pgd
from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.processes import divided, is_main

__all__ = ["AttackedDistances", "attack_triplets"]


@dataclass(frozen=True)
class AttackedDistances:
    """Distances of n triplets without and with an adversary.

    clean_a, clean_b: of the reference to a and b, `(n,)`.
    attacked: by the attack's name, the distances `(n,)` of the preferred candidate after the attack. An attack on a batch ends
        once all its decisions have turned, so that a distance above the other candidate's is not the largest possible one.
    size: side of the square at which the pictures were attacked; None for their own size.
    """

    clean_a: NDArray[np.float64]
    clean_b: NDArray[np.float64]
    attacked: dict[str, NDArray[np.float64]]
    size: int | None

    @property
    def prefers_a(self) -> NDArray[np.bool_]:
        """Whether the metric prefers a without an adversary, `(n,)`; of equal distances it counts as preferring a."""
        return self.clean_a <= self.clean_b

    def under(self, attack: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Distances to a and b, each `(n,)`, under the attack of that name."""
        distance = self.attacked[attack]
        return np.where(self.prefers_a, distance, self.clean_a), np.where(self.prefers_a, self.clean_b, distance)


def attack_triplets(
    metric: FileMetric, data: Judgments, attacks: Sequence[Attack], seed: int = 0, progress: bool = True
) -> AttackedDistances:
    """Attack every triplet. Nothing is read from a cache or written to one; several processes share the triplets.

    metric: of those that `load_metrics` returns; any with a gradient.
    seed: of the random starts, which do not depend on the order of the triplets or on the batch size.
    progress: whether to show a bar on stderr.

    Raises ValueError for a metric that has no gradient with respect to the pictures, or one that is zero for every picture.
    """
    if not isinstance(metric, DifferentiableMetric):
        raise ValueError("it compares files only; an attack needs a metric of images, with on_images().")
    on_images = metric.on_images()
    work = partial(_attack_share, on_images, data, attacks, seed, metric.name, progress and is_main())
    rows = divided(len(data), work)
    clean_a, clean_b, *columns = rows[:, : 2 + len(attacks)].T
    has_gradient = rows[:, 2 + len(attacks) :]
    if not has_gradient.any():
        raise ValueError(
            "the gradient of the distance with respect to the pictures is zero for every picture, as after rounding; an attack "
            "would report robustness that the metric does not have."
        )
    return AttackedDistances(
        clean_a, clean_b, {attack.name: column for attack, column in zip(attacks, columns, strict=True)}, on_images.size
    )


def _attack_share(
    metric: ImageMetric, data: Judgments, attacks: Sequence[Attack], seed: int, name: str, progress: bool, share: range
) -> NDArray[np.float64]:
    """For each triplet: both clean distances, the attacked distances, and whether each attack met a gradient."""
    rows = np.empty((len(share), 2 + 2 * len(attacks)))
    finished = 0
    with tqdm(total=len(share), desc=f"{name} attacked", unit="triplet", disable=not progress) as bar:
        for items in in_order(_Triplets(data, share, metric.size, metric.reading), metric.batch, metric.workers):
            for shape in dict.fromkeys(item.shape for item in items):
                chosen = [i for i, item in enumerate(items) if item.shape == shape]
                pictures = torch.stack([items[i] for i in chosen]).to(metric.device).float() / 255
                rows[[finished + i for i in chosen]] = _attack_batch(metric, pictures, attacks, seed)
            finished += len(items)
            bar.update(len(items))
    return rows


def _attack_batch(metric: ImageMetric, pictures: Tensor, attacks: Sequence[Attack], seed: int) -> NDArray[np.float64]:
    """The rows of triplets `(n, 3, 3, h, w)`: reference, a, b."""
    reference, a, b = pictures.unbind(1)
    distance = metric.towards(reference)
    with torch.no_grad():
        clean_a, clean_b = distance(a), distance(b)
    prefers_a = clean_a <= clean_b
    preferred = torch.where(prefers_a[:, None, None, None], a, b)
    results = [pgd(distance, preferred, attack, seed, torch.maximum(clean_a, clean_b)) for attack in attacks]
    columns = [clean_a, clean_b, *(r.distance for r in results), *(r.has_gradient for r in results)]
    return torch.stack([column.double() for column in columns], dim=1).cpu().numpy()


class _Triplets(Dataset[Any]):
    """Triplets as `(3, 3, h, w)` in 8 bits: reference, a, b. Without a size, at the smallest height and width of the three."""

    def __init__(self, data: Judgments, share: range, size: int | None, reading: Reading) -> None:
        self.data, self.share, self.size, self.reading = data, share, size, reading

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, i: int) -> Tensor | Exception:
        row = self.share[i]
        files = [self.data.images[column[row]] for column in (self.data.reference, self.data.a, self.data.b)]
        square = None if self.size is None else (self.size, self.size)
        try:
            pictures = [decode(file, square, self.reading) for file in files]
            if len({picture.shape for picture in pictures}) > 1:
                smallest = (min(p.shape[1] for p in pictures), min(p.shape[2] for p in pictures))
                pictures = [decode(file, smallest, self.reading) for file in files]
        except UNREADABLE as error:
            return error
        return torch.stack(pictures)
