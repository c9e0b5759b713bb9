import numpy as np
import pytest
from retrieval.synthetic_index import random_rows

from dreamsim_guidance.retrieval.diversity import (
    mean_pairwise_distance,
    mean_pairwise_interval,
    vendi_of_subsets,
    vendi_score,
)
from dreamsim_guidance.retrieval.matrix import distance_matrix

ORDERS = (0.0, 0.5, 1.0, 2.0, float("inf"))


@pytest.mark.parametrize("q", ORDERS)
@pytest.mark.parametrize("n", [1, 7, 40])
def test_identical_pictures_score_one(q: float, n: int) -> None:
    rows = np.repeat(random_rows(1, 12), n, axis=0).astype(np.float16)
    assert vendi_score(rows, q) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("q", ORDERS)
def test_orthogonal_pictures_score_their_number(q: float) -> None:
    assert vendi_score(np.eye(9)[:6], q) == pytest.approx(6)


@pytest.mark.parametrize("q", ORDERS)
def test_equally_many_copies_of_orthogonal_pictures_score_the_number_of_kinds(q: float) -> None:
    assert vendi_score(np.tile(np.eye(4), (5, 1)), q) == pytest.approx(4)


def test_unequal_shares_score_as_hill_numbers() -> None:
    rows = np.repeat(np.eye(2), [3, 1], axis=0)
    shares = np.array([0.75, 0.25])
    assert vendi_score(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert vendi_score(rows, 2.0) == pytest.approx(1 / np.square(shares).sum())
    assert vendi_score(rows, 0.0) == pytest.approx(2)
    assert vendi_score(rows, float("inf")) == pytest.approx(1 / 0.75)


def test_the_smaller_of_the_two_matrices_gives_the_same_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.diversity._CHUNK", 7)
    many, few = random_rows(30, 10), random_rows(8, 10)
    for rows in (many, few):
        kernel = rows.astype(np.float64) @ rows.T / len(rows)
        eigenvalues = np.linalg.eigvalsh(kernel).clip(1e-15)
        expected = np.exp(-(eigenvalues * np.log(eigenvalues)).sum())
        assert vendi_score(rows) == pytest.approx(expected, rel=1e-5)


def test_score_does_not_increase_with_the_order() -> None:
    scores = [vendi_score(random_rows(20, 30), q) for q in ORDERS]
    assert scores == sorted(scores, reverse=True)


def test_subsets_have_one_size_and_a_range() -> None:
    rows = random_rows(60, 20)
    subsets = vendi_of_subsets(rows, 15, count=30)
    assert 1 < subsets.low <= subsets.mean <= subsets.high < 15
    assert (subsets.size, subsets.count) == (15, 30)
    assert subsets == vendi_of_subsets(rows, 15, count=30)
    assert subsets.mean < vendi_score(rows)


def test_mean_distance_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.diversity._CHUNK", 4)
    rows = random_rows(17, 5)
    pairs = distance_matrix(rows)[np.triu_indices(17, 1)]
    assert mean_pairwise_distance(rows) == pytest.approx(pairs.mean(), abs=1e-6)
    assert mean_pairwise_distance(np.eye(3)) == pytest.approx(1)
    assert mean_pairwise_distance(np.ones((4, 1))) == 0


def test_mean_distance_of_nearly_equal_pictures_is_exact() -> None:
    rows = np.ones((2, 2)) / np.sqrt(2)
    rows[1] = [np.cos(np.pi / 4 + 1e-4), np.sin(np.pi / 4 + 1e-4)]
    assert mean_pairwise_distance(rows) == pytest.approx(0.5e-8, rel=0.01)


def test_bootstrap_of_the_mean_is_centred_on_it() -> None:
    angles = np.random.default_rng(0).normal(0, 0.5, 40)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    interval = mean_pairwise_interval(rows, resamples=400)
    assert interval.low < interval.value < interval.high
    assert (interval.low + interval.high) / 2 == pytest.approx(interval.value, abs=0.02)


def test_draws_of_a_single_picture_are_left_out() -> None:
    interval = mean_pairwise_interval(np.eye(2), resamples=100)  # half of the draws
    assert (interval.low, interval.value, interval.high) == (1, 1, 1)


@pytest.mark.slow
def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(300):
        angles = np.random.default_rng(seed).normal(0, 0.5, 30)
        rows = np.stack([np.cos(angles), np.sin(angles)], 1)
        interval = mean_pairwise_interval(rows, resamples=300, seed=seed)
        held += interval.low <= 1 - np.exp(-0.25) <= interval.high  # E cos(a - b) of normal angles
    assert 0.88 <= held / 300 <= 0.99


@pytest.mark.parametrize("q", [-1.0, float("nan")])
def test_impossible_orders_are_refused(q: float) -> None:
    with pytest.raises(ValueError, match="order q must be at least 0"):
        vendi_score(np.eye(2), q)


def test_impossible_subsets_are_refused() -> None:
    with pytest.raises(ValueError, match="from 1 to 2 pictures, got 3"):
        vendi_of_subsets(np.eye(2), 3)
    with pytest.raises(ValueError, match="at least one subset"):
        vendi_of_subsets(np.eye(2), 1, count=0)
    with pytest.raises(ValueError, match="at least 2 pictures are needed, got 1"):
        mean_pairwise_distance(np.eye(1))
