"""Quality scores: how good people found each distorted picture of a reference, on the scale of its data set.

Ratings.images                   the distinct pictures
Ratings.reference, .distorted    (n,) positions in images
Ratings.score                    (n,) higher is better, whatever the direction of the set's own scale
Ratings.group, .split            (n,) words; the group is the kind of distortion
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments, take_stock

__all__ = ["MIXED", "Rating", "Ratings", "gather_ratings"]

MIXED = "mixed"
"""Group of a triplet whose two candidates belong to different groups."""


@dataclass(frozen=True)
class Ratings:
    """Distorted pictures with scores; the top of this file describes the fields."""

    images: tuple[Path, ...]
    reference: NDArray[np.int64]
    distorted: NDArray[np.int64]
    score: NDArray[np.float64]
    group: tuple[str, ...]
    split: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reference)

    def judgments(self) -> Judgments:
        """Return all pairs of distorted pictures of one reference (and split) as triplets with one vote each.

        The vote goes to the picture with the higher score; equal scores get half a vote each. a is the picture that comes first
        in the set, so the order carries no information. 120 pictures of a reference make 7140 triplets. These votes are
        derived from scores, not from direct comparisons, so they give no ceiling of human agreement.
        """
        first, second = [], []
        splits = np.unique(np.array(self.split), return_inverse=True)[1]
        for of_one in _groups(np.stack([self.reference, splits])):
            i, j = np.triu_indices(len(of_one), 1)
            first.append(of_one[i])
            second.append(of_one[j])
        a, b = np.concatenate(first), np.concatenate(second)
        if not len(a):
            raise ValueError("pairs need two distorted pictures of one reference, and no reference has two.")
        gap = self.score[a] - self.score[b]
        votes_a = np.where(gap > 0, 1.0, np.where(gap < 0, 0.0, 0.5))
        return Judgments(
            images=self.images,
            reference=self.reference[a],
            a=self.distorted[a],
            b=self.distorted[b],
            votes_a=votes_a,
            votes_b=1 - votes_a,
            group=tuple(
                self.group[i] if self.group[i] == self.group[j] else MIXED
                for i, j in zip(a.tolist(), b.tolist(), strict=True)
            ),
            split=tuple(self.split[i] for i in a.tolist()),
        )


def _groups(keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Positions of equal columns of `keys`, in order."""
    _, number = np.unique(keys, axis=1, return_inverse=True)
    order = np.argsort(number.reshape(-1), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number.reshape(-1)[order])) + 1)


@dataclass(frozen=True)
class Rating:
    """One row of `Ratings`, with the files of its pictures."""

    reference: Path
    distorted: Path
    score: float
    group: str = ""
    split: str = ""

    @property
    def votes(self) -> float:
        return 1.0  # the sets give means, mostly without the number of people


def gather_ratings(ratings: Sequence[Rating], source: Path) -> Ratings:
    """Return ratings that were read from `source` as `Ratings`.

    Raises FileNotFoundError if a picture is missing, ValueError if a picture is rated twice.
    """
    rated: set[Path] = set()
    for rating in ratings:
        if rating.distorted in rated:
            raise ValueError(f"'{source}': '{rating.distorted.name}' is rated twice; keep one line of it.")
        rated.add(rating.distorted)
    images, (reference, distorted) = take_stock(source, [r.reference for r in ratings], [r.distorted for r in ratings])
    return Ratings(
        images=images,
        reference=reference,
        distorted=distorted,
        score=np.array([r.score for r in ratings], dtype=np.float64),
        group=tuple(r.group for r in ratings),
        split=tuple(r.split for r in ratings),
    )
