"""Pairs of pictures where something changes in steps, and the scale of a metric, from equal to unrelated pictures.

    relative distance = (d - d_0) / (D - d_0),   d_0 of a picture to itself, D of unrelated pictures

so 0 is as near as equal pictures, and 1 as far as unrelated ones. d_0 is 0 for a distance; a metric with an offset, or on a
scale of decibels, is read on its own scale too. A metric that does not tell unrelated pictures from equal ones has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.sensitivity.summaries import Bootstrap, mean

__all__ = ["StepDistances", "split_distances", "step_pairs"]

_NEIGHBOURS = 4
"""Each reference is compared with so many others for the mean distance between unrelated pictures."""

Step = TypeVar("Step")


def step_pairs(references: Sequence[Path], variants: Mapping[Step, Sequence[Path]]) -> list[tuple[Path, Path]]:
    """Return the pairs to compare: each of n references with its variant, step by step, with itself, and with others."""
    pairs = [pair for files in (*variants.values(), references) for pair in zip(references, files, strict=True)]
    n = len(references)
    for shift in range(1, min(_NEIGHBOURS, n - 1) + 1):
        pairs += [(references[i], references[(i + shift) % n]) for i in range(n)]
    return pairs


@dataclass(frozen=True)
class StepDistances:
    """A metric's distances from n references.

    steps: to their variants, `(steps, n)`. identical: to themselves, `(n,)`. unrelated: the mean to other references, `(n,)`.
    """

    steps: NDArray[np.float64]
    identical: NDArray[np.float64]
    unrelated: NDArray[np.float64]

    @property
    def moved(self) -> NDArray[np.float64]:
        """How much farther than itself each variant is, `(steps, n)`."""
        return self.steps - self.identical

    def means(self, bootstrap: Bootstrap) -> tuple[Interval, Interval]:
        """The mean distances of unrelated and of identical pictures."""
        clusters = np.arange(len(self.identical))
        return mean(self.unrelated, clusters, bootstrap), mean(self.identical, clusters, bootstrap)

    def scale(self, bootstrap: Bootstrap) -> NDArray[np.float64]:
        """How much farther than itself unrelated pictures are, `(n,)`; zeros if the interval of its mean is not above zero."""
        above = self.unrelated - self.identical
        return above if mean(above, np.arange(len(above)), bootstrap).low > 0 else np.zeros_like(above)


def split_distances(distances: NDArray[np.float64], count: int, steps: int) -> StepDistances:
    """Return the distances to the pairs of `step_pairs` of `count` references."""
    table = distances.reshape(-1, count)
    return StepDistances(table[:steps], table[steps], table[steps + 1 :].mean(0))
