"""Judge digits that were guided to a class, by a judge that took no part in the guidance.

Heusel et al., GANs trained by a two time-scale update rule, NeurIPS 2017, for the Frechet distance; here it is taken over
the pixels, for each class, and then averaged over the classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.known_answers.digit_set import CLASSES, Digits

__all__ = ["DigitJudge", "DigitScores"]


class DigitScores(NamedTuple):
    """How good guided digits are.

    accuracy: share of the images that the judge reads as their class.
    frechet: Frechet distance to the real digits of the class, mean over classes; 0 for equal means and covariances.
    diversity: mean Euclidean distance between two samples of a class, mean over classes.
    """

    accuracy: float
    frechet: float
    diversity: float


class DigitJudge:
    """Reads digits by their nearest neighbours among `labelled`, and compares them with the digits of `real`.

    labelled: digits that the classifiers which guide were not trained on.
    real: digits to which the Frechet distances are measured; several of each class.
    neighbours: how many of the nearest neighbours vote.

    Pixels are compared in [-1, 1].
    """

    def __init__(self, labelled: Digits, real: Digits, neighbours: int = 5) -> None:
        from sklearn.neighbors import KNeighborsClassifier

        self.neighbours = KNeighborsClassifier(neighbours).fit(
            _pixels(labelled.images).numpy(), labelled.labels.numpy()
        )
        self.real = [_pixels(real.images[real.labels == k]) for k in range(CLASSES)]

    def __call__(self, images: Float[Tensor, "n 1 8 8"], labels: Int64[Tensor, " n"]) -> DigitScores:
        """Score images in [0, 1] that should show `labels`. Raises ValueError for fewer than two images of a class."""
        pixels = _pixels(images)
        accuracy = float((self.neighbours.predict(pixels.numpy()) == labels.numpy()).mean())
        classes = [pixels[labels == k] for k in range(CLASSES)]
        if min(map(len, classes)) < 2:
            raise ValueError(f"two or more images of each class are needed, got {[len(part) for part in classes]}.")
        distances = [frechet_distance(part, real) for part, real in zip(classes, self.real, strict=True)]
        spread = [float(torch.pdist(part).mean()) for part in classes]
        return DigitScores(accuracy, float(np.mean(distances)), float(np.mean(spread)))


def _pixels(images: Tensor) -> Float[Tensor, "n 64"]:
    return images.flatten(1).double() * 2 - 1
