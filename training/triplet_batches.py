"""Batches of triplets in which every distinct picture appears once.

The seed and the step alone decide a batch, so that a run resumes in the middle of an epoch, and is the same on any number of
processes. There are two ways to choose the triplets of a step:

    by triplets   the triplets of a set are shuffled anew in each epoch, and the shuffled list is cut into batches
    by pictures   so many pictures as some shuffled triplets show, and all triplets among them: where every picture occurs in
                  many triplets, this learns from many more of them for the same number of pictures to embed

With several sets, each has its share of every batch. Each process takes its share of a batch, cut into pieces that fit the
memory. All processes compute equally many pieces; one without a triplet left computes a triplet of weight 0. The weights of a
set's triplets sum to the set's share, and the shares to 1: for one set, the sum of the weighted losses over all pieces and
processes is the batch's mean loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dreamsim_guidance.data.judgments import Judgments

__all__ = ["Piece", "TripletBatches", "TripletSet", "all_triplets", "load_batches"]


@dataclass(frozen=True)
class TripletSet:
    """A set of judgments with its pictures.

    name: of the set, for reports.
    pictures: item i is picture i of `judgments.images` in 8 bits, or its features.
    share: of every batch; the shares of the sets of a run sum to 1.
    untuned: `(len(judgments.images), d)` unit embeddings by the metric before tuning, for regularisation; None without it.
    """

    judgments: Judgments
    pictures: Dataset[Tensor]
    name: str = ""
    share: float = 1.0
    untuned: Float[Tensor, "m d"] | None = None


@dataclass(frozen=True)
class Piece:
    """Pictures `(m, 3, s, s)` in 8 bits (or their features), and `(n,)` triplets as positions among the pictures.

    origin: number of the set that a triplet belongs to.
    untuned: unit embeddings of the pictures by the metric before tuning, `(m, d)`; `(m, 0)` where they are not needed.
    """

    pictures: UInt8[Tensor, "m 3 s s"] | Float[Tensor, "m *d"]
    reference: Int[Tensor, " n"]
    a: Int[Tensor, " n"]
    b: Int[Tensor, " n"]
    votes_a: Float[Tensor, " n"]
    votes_b: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]
    origin: Int[Tensor, " n"]
    untuned: Float[Tensor, "m d"]

    def to(self, device: torch.device) -> Piece:
        """The same piece on `device`."""
        moved = {field.name: getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)}
        return Piece(**moved)


class TripletBatches(Dataset[list[Piece]]):
    """A data set whose item `step` is the list of this process's pieces of the batch of that step.

    Args:
        sets: at least one set of judgments with pictures of one size.
        batch: triplets of a step over all sets and processes, at least 1; of each set at most all its triplets.
        steps: length of the data set.
        seed: decides the order of the triplets.
        piece: most triplets in a piece; None for all of a process's share.
        process, processes: number of this process, from 0, and of all.
        pictures: choose by pictures: about so many pictures of a step over all sets, at least 3, with all triplets among them,
            but at most `batch`. None chooses by triplets.

    Raises ValueError if a number is too small.
    """

    def __init__(
        self,
        sets: Sequence[TripletSet],
        batch: int,
        steps: int,
        seed: int,
        piece: int | None = None,
        process: int = 0,
        processes: int = 1,
        pictures: int | None = None,
    ) -> None:
        if batch < 1 or (piece is not None and piece < 1):
            raise ValueError(f"batch and piece must be at least 1, got {batch} and {piece}.")
        if pictures is not None and pictures < 3:
            raise ValueError(f"a triplet has 3 pictures; pictures must be at least 3, got {pictures}.")
        self.sets, self.steps, self.seed = tuple(sets), steps, seed
        self.process, self.processes = process, processes
        self.sizes = [min(max(1, round(batch * s.share)), len(s.judgments)) for s in self.sets]
        self.pictures = None if pictures is None else [max(3, round(pictures * s.share)) for s in self.sets]
        share = math.ceil(sum(self.sizes) / processes)
        self.piece = min(piece or share, share)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return self.steps

    def triplets(self, step: int, number: int = 0) -> NDArray[np.int64]:
        """Positions of all triplets of a step in set `number`, over all processes."""
        if self.pictures is not None:
            return self._among_pictures(step, number)
        size, count = self.sizes[number], len(self.sets[number].judgments)
        epoch, place = divmod(step, math.ceil(count / size))
        if number not in self._orders or self._orders[number][0] != epoch:
            self._orders[number] = (epoch, self._random(epoch, number).permutation(count))
        return self._orders[number][1][place * size : (place + 1) * size]

    def _among_pictures(self, step: int, number: int) -> NDArray[np.int64]:
        assert self.pictures is not None
        judgments, size = self.sets[number].judgments, self.sizes[number]
        random = self._random(step, number)
        order = random.permutation(len(judgments))
        columns = np.stack([judgments.reference, judgments.a, judgments.b])
        _, first = np.unique(columns[:, order].T, return_index=True)
        chosen = columns[:, order].T.flat[np.sort(first)[: self.pictures[number]]]
        among = np.flatnonzero(np.isin(columns, chosen).all(0))
        return among if len(among) <= size else random.choice(among, size, replace=False)

    def _random(self, number: int, of_set: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number] if of_set == 0 else [self.seed, number, of_set])

    def __getitem__(self, step: int) -> list[Piece]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        rows = [self.triplets(step, number) for number in range(len(self.sets))]
        whole = np.concatenate([np.stack([np.full_like(r, number), r]) for number, r in enumerate(rows)], axis=1)
        weights = np.concatenate([np.full(len(r), s.share / len(r)) for s, r in zip(self.sets, rows, strict=True)])
        mine = slice(self.process, None, self.processes)
        share, weight = whole[:, mine], weights[mine]
        pieces = math.ceil(math.ceil(whole.shape[1] / self.processes) / self.piece)
        if share.shape[1] < pieces:  # another process has one triplet more: compute one too, with weight 0
            missing = pieces - share.shape[1]
            share = np.concatenate([share, whole[:, :missing]], axis=1)
            weight = np.concatenate([weight, np.zeros(missing)])
        return [self._piece(share[:, i::pieces], weight[i::pieces]) for i in range(pieces)]

    def _piece(self, chosen: NDArray[np.int64], weight: NDArray[np.float64]) -> Piece:
        """The piece of the triplets `chosen`: number of the set and position in it, `(2, n)`."""
        pictures: list[Tensor] = []
        untuned: list[Tensor] = []
        columns, votes = [], []
        for number, s in enumerate(self.sets):
            rows, j = chosen[1, chosen[0] == number], s.judgments
            distinct, place = np.unique(np.stack([j.reference[rows], j.a[rows], j.b[rows]]), return_inverse=True)
            columns.append(place.reshape(3, -1) + len(pictures))
            votes.append(np.stack([j.votes_a[rows], j.votes_b[rows]]))
            pictures += [s.pictures[int(i)] for i in distinct]
            untuned += [torch.zeros(0) if s.untuned is None else s.untuned[int(i)] for i in distinct]
        order = np.argsort(chosen[0], kind="stable")  # as the columns are ordered
        reference, a, b = torch.from_numpy(np.concatenate(columns, axis=1))
        votes_a, votes_b = torch.from_numpy(np.concatenate(votes, axis=1)).float()
        weights, origin = torch.from_numpy(weight[order]).float(), torch.from_numpy(chosen[0, order])
        return Piece(
            torch.stack(pictures), reference, a, b, votes_a, votes_b, weights, origin, torch.stack(untuned).float()
        )


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


def all_triplets(
    judgments: Judgments, directions: Float[Tensor, "m d"], size: int = 4096, number: int = 0
) -> Iterator[Piece]:
    """Iterate over all triplets of set `number`, `size` at a time, with unit embeddings `(m, d)` in place of the pictures.

    Weights are 1 / (number of triplets).
    """
    j = judgments
    for first in range(0, len(j), size):
        part = slice(first, first + size)
        reference, a, b = (torch.from_numpy(x[part]) for x in (j.reference, j.a, j.b))
        votes_a, votes_b = (torch.from_numpy(x[part]).float() for x in (j.votes_a, j.votes_b))
        weight = torch.full((len(a),), 1 / len(j), dtype=torch.float32)
        origin, untuned = torch.full_like(a, number), directions.new_zeros(len(directions), 0)
        yield Piece(directions, reference, a, b, votes_a, votes_b, weight, origin, untuned)
