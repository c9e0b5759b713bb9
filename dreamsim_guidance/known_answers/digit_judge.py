"""What became of digits that were guided to a class, judged by what did not guide them.

    FD = ||m - m'||^2 + tr(C + C' - 2 (C C')^(1/2))        over the pixels, for each class, then the mean

Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017, for the Frechet distance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamsim_guidance.known_answers.digit_set import CLASSES, Digits

__all__ = ["DigitJudge", "Judged", "frechet"]


class Judged(NamedTuple):
    """Accuracy by the judge, Frechet distance to the real digits of the class, mean distance of two samples of a class."""

    accuracy: float
    frechet: float
    diversity: float


class DigitJudge:
    """A judge by nearest neighbours among `known`; Frechet distances are to the digits of `real`. Pixels are in [-1, 1]."""

    def __init__(self, known: Digits, real: Digits, neighbours: int = 5) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        self.neighbours = KNeighborsClassifier(neighbours).fit(_pixels(known.images), known.labels.numpy())
        self.real = [_pixels(real.images[real.labels == k]) for k in range(CLASSES)]

    def __call__(self, images: Float[Tensor, "n 1 8 8"], labels: Int64[Tensor, " n"]) -> Judged:
        """Of images in [0, 1] that were meant to show `labels`; every class needs two or more."""
        found = _pixels(images)
        accuracy = float((self.neighbours.predict(found) == labels.numpy()).mean())
        parts = [found[labels.numpy() == k] for k in range(CLASSES)]
        if min(map(len, parts)) < 2:
            raise ValueError(f"two or more images of each class are needed, got {[len(part) for part in parts]}.")
        distances = [frechet(part, real) for part, real in zip(parts, self.real, strict=True)]
        spread = [float(torch.pdist(torch.from_numpy(part)).mean()) for part in parts]
        return Judged(accuracy, float(np.mean(distances)), float(np.mean(spread)))


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of rows."""
    means, covariances = zip(*((part.mean(0), np.cov(part, rowvar=False)) for part in (one, other)), strict=True)
    root = _root(covariances[0])
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root)
    between = np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.sqrt(cross.clip(0)).sum()
    return float(((means[0] - means[1]) ** 2).sum() + between)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _pixels(images: Tensor) -> np.ndarray:
    return (images.flatten(1).double().numpy()) * 2 - 1
