from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.training.triplet_batches import Piece, TripletBatches, TripletSet, load_batches


class Numbers(Dataset[Tensor]):
    """Every pixel of picture i is i; records which pictures were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return torch.full((3, 2, 2), index, dtype=torch.uint8)


@pytest.fixture
def judgments() -> Judgments:
    random = np.random.default_rng(0)
    columns = np.stack([random.choice(9, 3, replace=False) for _ in range(23)])
    votes = random.integers(1, 6, (23, 2)).astype(np.float64)
    return Judgments(
        images=tuple(Path(f"{i}.png") for i in range(9)),
        reference=columns[:, 0],
        a=columns[:, 1],
        b=columns[:, 2],
        votes_a=votes[:, 0],
        votes_b=votes[:, 1],
        group=("x",) * 23,
        split=("train",) * 23,
    )


def rows(pieces: list[Piece]) -> list[tuple[float, ...]]:
    """The triplets of all pieces as rows (reference, a, b, votes, weight), without those of weight 0."""
    triplets = []
    for piece in pieces:
        names = piece.pictures[:, 0, 0, 0].long()
        columns = (names[piece.reference], names[piece.a], names[piece.b], piece.votes_a, piece.votes_b, piece.weight)
        triplets += [tuple(float(x) for x in row) for row in zip(*columns, strict=True) if row[-1] > 0]
    return sorted(triplets)


def test_every_distinct_picture_of_a_batch_is_read_once(judgments: Judgments) -> None:
    pictures = Numbers()
    (piece,) = TripletBatches([TripletSet(judgments, pictures)], batch=23, steps=1, seed=0)[0]
    assert sorted(pictures.read) == list(range(9)) and len(piece.reference) == 23


def test_an_epoch_has_every_triplet_once_and_the_next_one_another_order(judgments: Judgments) -> None:
    batches = TripletBatches([TripletSet(judgments, Numbers())], batch=5, steps=10, seed=0)
    epochs = [np.concatenate([batches.triplets(step) for step in range(5 * e, 5 * e + 5)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize(("processes", "piece"), [(1, 2), (2, None), (3, 1), (4, 2)])
def test_processes_and_pieces_share_the_same_batch(judgments: Judgments, processes: int, piece: int | None) -> None:
    whole = TripletBatches([TripletSet(judgments, Numbers())], batch=5, steps=5, seed=0)
    sets = [TripletSet(judgments, Numbers())]
    shares = [TripletBatches(sets, 5, 5, 0, piece, process, processes) for process in range(processes)]
    for step in range(5):  # the last batch of the epoch has three triplets only
        parts = [share[step] for share in shares]
        assert len({len(part) for part in parts}) == 1  # all make equally many passes
        np.testing.assert_allclose(rows([p for part in parts for p in part]), rows(whole[step]), rtol=1e-6)
        assert sum(float(p.weight.sum()) for part in parts for p in part) == pytest.approx(1)


def test_workers_give_the_same_batches_from_any_step_on(judgments: Judgments) -> None:
    batches = TripletBatches([TripletSet(judgments, Numbers())], batch=5, steps=7, seed=3)
    expected = [rows(batches[step]) for step in range(4, 7)]
    assert [rows(pieces) for pieces in load_batches(batches, first=4, workers=1)] == expected


def test_batches_smaller_than_one_are_refused(judgments: Judgments) -> None:
    with pytest.raises(ValueError, match="batch and piece must be at least 1"):
        TripletBatches([TripletSet(judgments, Numbers())], batch=0, steps=1, seed=0)
