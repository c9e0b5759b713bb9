"""Batches of triplets in which every distinct picture appears once.

The seed and the step alone decide a batch: triplets are shuffled anew in each epoch, and the shuffled list is cut into
batches. A run therefore resumes in the middle of an epoch, and is the same on any number of processes. Each process takes its
share of a batch, cut into pieces that fit the memory. All processes compute equally many pieces; one without a triplet left
computes a triplet of weight 0. Weights are 1 / (triplets in the whole batch), so that the sum of the weighted losses over all
pieces and processes is the batch's mean loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dreamsim_guidance.data.judgments import Judgments

__all__ = ["Piece", "TripletBatches", "all_triplets", "load_batches"]


@dataclass(frozen=True)
class Piece:
    """Pictures `(m, 3, s, s)` in 8 bits (or their features), and `(n,)` triplets as positions among the pictures."""

    pictures: UInt8[Tensor, "m 3 s s"] | Float[Tensor, "m *d"]
    reference: Int[Tensor, " n"]
    a: Int[Tensor, " n"]
    b: Int[Tensor, " n"]
    votes_a: Float[Tensor, " n"]
    votes_b: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]

    def to(self, device: torch.device) -> Piece:
        """The same piece on `device`."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)}
        return Piece(**moved)


class TripletBatches(Dataset[list[Piece]]):
    """A data set whose item `step` is the list of this process's pieces of the batch of that step.

    Args:
        judgments: the triplets.
        pictures: item i is picture i of `judgments.images`.
        batch: triplets of a step over all processes, at least 1; at most all triplets are taken.
        steps: length of the data set.
        seed: decides the order of the triplets.
        piece: most triplets in a piece; None for all of a process's share.
        process, processes: number of this process, from 0, and of all.

    Raises ValueError if `batch` or `piece` is below 1.
    """

    def __init__(
        self,
        judgments: Judgments,
        pictures: Dataset[Tensor],
        batch: int,
        steps: int,
        seed: int,
        piece: int | None = None,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        if batch < 1 or (piece is not None and piece < 1):
            raise ValueError(f"batch and piece must be at least 1, got {batch} and {piece}.")
        self.judgments, self.pictures = judgments, pictures
        self.batch, self.steps, self.seed = min(batch, len(judgments)), steps, seed
        self.process, self.processes = process, processes
        self.share = math.ceil(self.batch / processes)
        self.piece = min(piece or self.share, self.share)
        self.per_epoch = math.ceil(len(judgments) / self.batch)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.steps

    def triplets(self, step: int) -> NDArray[np.int64]:
        """Positions of all triplets of a step, over all processes."""
        epoch, number = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            self._order = (epoch, random.permutation(len(self.judgments)))
        return self._order[1][number * self.batch : (number + 1) * self.batch]

    def __getitem__(self, step: int) -> list[Piece]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        whole = self.triplets(step)
        share = whole[self.process :: self.processes]
        pieces = math.ceil(math.ceil(len(whole) / self.processes) / self.piece)
        return [self._piece(share[i::pieces], whole, 1 / len(whole)) for i in range(pieces)]

    def _piece(self, chosen: NDArray[np.int64], whole: NDArray[np.int64], weight: float) -> Piece:
        if len(chosen) == 0:  # another process has one triplet more: compute one too, with weight 0
            chosen, weight = whole[:1], 0.0
        j = self.judgments
        columns = np.stack([j.reference[chosen], j.a[chosen], j.b[chosen]])
        distinct, place = np.unique(columns, return_inverse=True)
        reference, a, b = torch.from_numpy(place.reshape(columns.shape))
        weights = torch.full((len(chosen),), weight, dtype=torch.float32)
        votes_a, votes_b = (torch.from_numpy(votes[chosen]).float() for votes in (j.votes_a, j.votes_b))
        pictures = torch.stack([self.pictures[int(i)] for i in distinct])
        return Piece(pictures, reference, a, b, votes_a, votes_b, weights)


def load_batches(batches: TripletBatches, first: int = 0, workers: int = 0) -> Iterator[list[Piece]]:
    """Iterate over the batches from step `first` on; `workers` processes prepare them in advance, 0 prepares them here."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, len(batches)),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        persistent_workers=False,
    )
    return iter(loader)


def all_triplets(judgments: Judgments, directions: Float[Tensor, "m d"], size: int = 4096) -> Iterator[Piece]:
    """Iterate over all triplets, `size` at a time, with unit embeddings `(m, d)` of all pictures in place of the pictures.

    Weights are 1 / (number of triplets).
    """
    j = judgments
    for first in range(0, len(j), size):
        part = slice(first, first + size)
        reference, a, b = (torch.from_numpy(x[part]) for x in (j.reference, j.a, j.b))
        votes_a, votes_b = (torch.from_numpy(x[part]).float() for x in (j.votes_a, j.votes_b))
        yield Piece(
            directions, reference, a, b, votes_a, votes_b, torch.full((len(a),), 1 / len(j), dtype=torch.float32)
        )
