"""Temporal consistency of a video's frames, in the form of VBench.

With the cosine similarities s(i, j) = max(0, 1 - d(frame i, frame j)) of T frames,

    consistency = 1 / (T - 1)  sum_{t = 2..T}  (s(1, t) + s(t - 1, t)) / 2

VBench computes it with DINO features as subject consistency and with CLIP features as background consistency; here the
embedding is the metric's. 1 means that nothing changes. A still picture is perfectly consistent, so read the score beside a
measure of motion.

Huang et al., VBench: Comprehensive Benchmark Suite for Video Generative Models, CVPR 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dreamsim_guidance.retrieval.rows import unit_rows

__all__ = ["Consistency", "natural_order", "temporal_consistency"]

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Consistency:
    """The consistency of T frames, and the distances it is made of.

    score: the mean of the two similarities below, in [0, 1].
    to_previous, to_first: mean similarity of the frames 2..T to the frame before and to the first frame, in [0, 1].
    previous_distances, first_distances: distance of each frame, from the second on, to the one before and to the first, `(T -
        1,)`.
    """

    score: float
    to_previous: float
    to_first: float
    previous_distances: NDArray[np.float64]
    first_distances: NDArray[np.float64]

    @property
    def largest_jump(self) -> int:
        """The position, from 0, of the frame that differs most from the one before it: at least 1."""
        return int(self.previous_distances.argmax()) + 1


def temporal_consistency(vectors: ArrayLike | Tensor) -> Consistency:
    """Return the temporal consistency of frames in VBench's form.

    vectors: unit rows `(T, d)` in the order of the frames, T >= 2. Raises ValueError as `unit_rows`.
    """
    rows = unit_rows(vectors, least=2).astype(np.float64)
    previous = 0.5 * np.square(rows[1:] - rows[:-1]).sum(1)
    first = 0.5 * np.square(rows[1:] - rows[0]).sum(1)
    to_previous, to_first = (float((1 - distances).clip(min=0).mean()) for distances in (previous, first))
    return Consistency((to_previous + to_first) / 2, to_previous, to_first, previous, first)


def natural_order(names: Iterable[str]) -> list[str]:
    """Return the names sorted with their numbers as numbers: frame2 before frame10, whatever zeros precede the digits."""
    return sorted(names, key=lambda name: ([_part(part) for part in _DIGITS.split(name)], name))


def _part(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part.casefold())
