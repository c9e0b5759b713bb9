"""Handwritten digits of 8 x 8 pixels, as scikit-learn installs them: few enough to train a prior on in minutes.

The 1797 digits are those of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998), its
test part, reduced to 8 x 8 counts of ink of 0 to 16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["CLASSES", "SIDE", "Digits", "digits"]

CLASSES = 10
SIDE = 8


class Digits(NamedTuple):
    """Grey images in [0, 1], where 1 is ink, and the digit that each shows, 0 to 9."""

    images: Float[Tensor, "n 1 8 8"]
    labels: Int64[Tensor, " n"]

    def part(self, rows: Tensor) -> Digits:
        """The digits of these positions."""
        return Digits(self.images[rows], self.labels[rows])

    def halves(self, seed: int = 0) -> tuple[Digits, Digits]:
        """Two disjoint random halves: one for classifiers that guide, the other for the judge."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        middle = len(order) // 2
        return self.part(order[:middle]), self.part(order[middle:])


def digits() -> Digits:
    """All 1797 digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    return Digits(images, torch.from_numpy(bunch.target).long())
