"""Just noticeable differences: pairs of pictures, and the share of people who took them for the same.

SamePairs.images                 the distinct pictures
SamePairs.a, .b                  (n,) positions in images
SamePairs.share_same, .votes     (n,) the share in [0, 1], and how many people were asked
SamePairs.group, .split          (n,) words; the meaning of a group depends on the set
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import take_stock

__all__ = ["Pair", "SamePairs", "gather_pairs"]


@dataclass(frozen=True)
class SamePairs:
    """Pairs with votes; the top of this file describes the fields."""

    images: tuple[Path, ...]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    share_same: NDArray[np.float64]
    votes: NDArray[np.float64]
    group: tuple[str, ...]
    split: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.a)


@dataclass(frozen=True)
class Pair:
    """One row of `SamePairs`, with the files of its pictures."""

    a: Path
    b: Path
    share_same: float
    votes: float
    group: str = ""
    split: str = ""


def gather_pairs(pairs: Sequence[Pair], source: Path) -> SamePairs:
    """Return pairs that were read from `source` as `SamePairs`. Raises FileNotFoundError if a picture is missing."""
    images, (a, b) = take_stock(source, [p.a for p in pairs], [p.b for p in pairs])
    return SamePairs(
        images=images,
        a=a,
        b=b,
        share_same=np.array([p.share_same for p in pairs], dtype=np.float64),
        votes=np.array([p.votes for p in pairs], dtype=np.float64),
        group=tuple(p.group for p in pairs),
        split=tuple(p.split for p in pairs),
    )
