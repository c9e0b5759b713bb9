"""Human judgments in one normal form: a reference, two candidates, how many people found which of them nearer.

Judgments.images                 the distinct pictures, so that each is read and embedded once
Judgments.reference, .a, .b      (n,) positions among them
Judgments.votes_a, .votes_b      (n,) people, at least one vote for each triplet
Judgments.group, .split          (n,) words; what a group is depends on the set
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Judgments"]


@dataclass(frozen=True)
class Judgments:
    """Triplets with votes; see the module's documentation."""

    images: tuple[Path, ...]
    reference: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    votes_a: NDArray[np.float64]
    votes_b: NDArray[np.float64]
    group: tuple[str, ...]
    split: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reference)

    def select(self, rows: ArrayLike) -> Judgments:
        """The triplets where the mask `rows` is True, or at the positions `rows`, with only the pictures they show."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        used, place = np.unique(np.stack([self.reference, self.a, self.b])[:, chosen], return_inverse=True)
        reference, a, b = place.reshape(3, -1)
        return Judgments(
            images=tuple(self.images[i] for i in used),
            reference=reference,
            a=a,
            b=b,
            votes_a=self.votes_a[chosen],
            votes_b=self.votes_b[chosen],
            group=tuple(self.group[i] for i in chosen),
            split=tuple(self.split[i] for i in chosen),
        )
