"""Pairs of pictures that are compared where something changes in steps, and the distances of pictures without relation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["split_distances", "step_pairs"]

_NEIGHBOURS = 4
"""Each reference is compared with so many others for the mean distance between unrelated pictures."""

Step = TypeVar("Step")


def step_pairs(references: Sequence[Path], variants: Mapping[Step, Sequence[Path]]) -> list[tuple[Path, Path]]:
    """Return the pairs to compare: each of n references with its variant, step by step, then references with each other."""
    pairs = [pair for files in variants.values() for pair in zip(references, files, strict=True)]
    n = len(references)
    for shift in range(1, min(_NEIGHBOURS, n - 1) + 1):
        pairs += [(references[i], references[(i + shift) % n]) for i in range(n)]
    return pairs


def split_distances(
    distances: NDArray[np.float64], count: int, steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distances to the pairs of `step_pairs` as a table `(steps, n)`, and each reference's mean to others, `(n,)`."""
    table = distances.reshape(-1, count)
    return table[:steps], table[steps:].mean(0)
