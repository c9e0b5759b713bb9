"""Statistics of judgments against closed forms, brute force and simulations."""

import time

import numpy as np
import pytest
import torch

from dreamsim_guidance.evaluation import (
    average_precision,
    bradley_terry,
    ceiling,
    cluster_bootstrap,
    credits,
    paired_difference,
    two_way_identification,
)
from dreamsim_guidance.evaluation.statistics.intervals import resample_means


def test_credits_follow_the_named_rule() -> None:
    d_a, d_b = [0.1, 0.2, 0.3, 0.5, 0.1], [0.2, 0.1, 0.3, 0.4, 0.2]
    n_a, n_b = [3, 1, 4, 2, 0], [1, 3, 0, 2, 5]
    assert credits(d_a, d_b, n_a, n_b, "fraction").tolist() == [0.75, 0.75, 0.5, 0.5, 0.0]
    np.testing.assert_equal(credits(d_a, d_b, n_a, n_b, "majority"), [1, 1, 0.5, np.nan, 0])
    np.testing.assert_equal(credits(d_a, d_b, n_a, n_b, "unanimous"), [np.nan, np.nan, 0.5, np.nan, 0])


def original_score(d0: np.ndarray, d1: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The score that the original's repository computes for NIGHTS and BAPPS (its package lacks that code)."""
    return (d0 < d1) * (1 - target) + (d1 < d0) * target + (d1 == d0) * 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_fraction_rule_is_the_originals_score(seed: int) -> None:
    random = np.random.default_rng(seed)
    d0, d1 = random.random((2, 2000))
    d1 = np.where(random.random(2000) < 0.2, d0, d1)  # ties
    votes = random.integers(1, 9, 2000)
    targets = {
        "winners": random.integers(0, 2, 2000).astype(float),
        "shares": random.binomial(votes, 0.4) / votes,
        "fractions": random.random(2000),
    }
    for target in targets.values():
        result = credits(d0, d1, (1 - target) * votes, target * votes)
        np.testing.assert_allclose(result, original_score(d0, d1, target), atol=1e-12)
        assert result.mean() == pytest.approx(original_score(d0, d1, target).mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "round"}, "unknown rule 'round'; known: fraction, majority, unanimous"),
        ({"votes_a": [0, 1]}, "a triplet needs votes, none of them negative, got 0 and 0 at 0"),
        ({"distance_a": [0.1, np.nan]}, "distance_a has NaN at 1"),
        ({"distance_a": [0.1]}, "arrays of one length"),
    ],
)
def test_impossible_judgments_are_refused(changes: dict[str, object], message: str, unchecked: None) -> None:
    whole = {"distance_a": [0.1, 0.2], "distance_b": [0.2, 0.1], "votes_a": [1, 1], "votes_b": [0, 1]}
    with pytest.raises(ValueError, match=message):
        credits(**{**whole, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("votes", [2, 3, 5])
def test_the_human_ceiling_is_unbiased(votes: int) -> None:
    random = np.random.default_rng(votes)
    p = random.beta(0.8, 0.8, 20_000)
    truth = float(np.mean(p**2 + (1 - p) ** 2))
    result = [ceiling(votes - k, k) for k in (random.binomial(votes, p) for _ in range(40))]
    sigma = np.std(result, ddof=1) / np.sqrt(len(result))
    assert abs(np.mean(result) - truth) < 3 * sigma
    k = random.binomial(votes, p) / votes
    assert np.mean(k**2 + (1 - k) ** 2) > truth + 0.03  # the plug-in, which counts a vote as agreeing with itself


def test_the_ceiling_needs_two_votes() -> None:
    assert ceiling([2, 1, 0], [0, 0, 3]) == 1.0
    with pytest.raises(ValueError, match="at least two votes"):
        ceiling([1, 0], [0, 1])


def clustered(random: np.random.Generator, clusters: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong answers whose difficulty varies between clusters, and the cluster of each."""
    p = random.beta(4 * 0.8, 4 * 0.2, clusters).repeat(size)
    return (random.random(len(p)) < p).astype(float), np.arange(clusters).repeat(size)


def test_the_cluster_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered, naive = 0, 0
    for i in range(1000):
        values, labels = clustered(random, 80, 10)
        by_cluster = cluster_bootstrap(values, labels, resamples=500, seed=i)
        covered += by_cluster.low <= 0.8 <= by_cluster.high
        if i < 100:
            alone = cluster_bootstrap(values, resamples=200, seed=i)
            naive += alone.low <= 0.8 <= alone.high
    assert 0.93 <= covered / 1000 <= 0.97
    assert naive / 100 < 0.85


def test_many_columns_are_resampled_together_as_each_is_alone() -> None:
    random = np.random.default_rng(4)
    columns = random.random((3, 300)).round(1)
    labels = random.integers(0, 40, 300)
    together = resample_means(columns, labels, resamples=4000)
    for i, column in enumerate(columns):
        alone = cluster_bootstrap(column, labels, resamples=4000, seed=1)
        result = together.interval(i)
        assert result.value == pytest.approx(alone.value) and result.clusters == alone.clusters == len(
            np.unique(labels)
        )
        assert result.low == pytest.approx(alone.low, abs=4e-3) and result.high == pytest.approx(alone.high, abs=4e-3)
    lead, paired = together.lead(1, 0), paired_difference(columns[1], columns[0], labels, resamples=4000)
    assert lead.value == pytest.approx(paired.value) and lead.low == pytest.approx(paired.low, abs=4e-3)


def test_drawing_equal_clusters_together_gives_the_same_intervals() -> None:
    # few kinds of clusters are drawn as kinds, many one by one
    random = np.random.default_rng(5)
    credit = (random.random(900) < 0.8).astype(float)
    of_kinds = cluster_bootstrap(credit, resamples=6000)
    one_by_one = cluster_bootstrap(credit + random.random(900) * 1e-9, resamples=6000)
    expected = np.sqrt(0.8 * 0.2 / 900) * 1.96
    for result in (of_kinds, one_by_one):
        assert result.value - result.low == pytest.approx(expected, rel=0.08)
        assert result.high - result.value == pytest.approx(expected, rel=0.08)


def test_a_hundred_thousand_triplets_take_seconds() -> None:
    credit = (np.random.default_rng(6).random((3, 100_000)) < 0.8).astype(float)
    start = time.process_time()
    result = resample_means(credit, np.arange(100_000)).interval(0)
    assert time.process_time() - start < 10
    assert result.high - result.low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 100_000), rel=0.1)


def test_an_interval_counts_what_it_was_made_of() -> None:
    result = cluster_bootstrap([1.0, 0.0, np.nan, 1.0], ["x", "x", "y", "z"])
    assert (result.value, result.count, result.clusters) == (pytest.approx(2 / 3), 3, 2)
    assert 0.5 <= result.low <= result.value <= result.high <= 1
    with pytest.raises(ValueError, match="no value to average"):
        cluster_bootstrap([np.nan])
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        cluster_bootstrap([1.0], level=95.0)


def test_pairing_sees_a_small_difference_that_two_intervals_miss() -> None:
    random = np.random.default_rng(2)
    first = (random.random(1824) < 0.96).astype(float)
    second = np.where(random.random(1824) < 0.01, 0.0, first)
    result = paired_difference(first, second)
    assert result.low > 0
    assert cluster_bootstrap(second).high > cluster_bootstrap(first).low


def test_bradley_terry_is_the_closed_form_for_two() -> None:
    s = bradley_terry([[0, 30], [10, 0]], ridge=1e-9)
    assert s[0] - s[1] == pytest.approx(np.log(3), abs=1e-6) and s.sum() == pytest.approx(0, abs=1e-12)


def test_bradley_terry_recovers_simulated_strengths() -> None:
    random = np.random.default_rng(3)
    truth = np.array([-1.5, -0.5, 0.0, 0.6, 1.4])
    wins = np.zeros((5, 5))
    for i in range(5):
        for j in range(i):
            wins[i, j] = random.binomial(4000, 1 / (1 + np.exp(truth[j] - truth[i])))
            wins[j, i] = 4000 - wins[i, j]
    np.testing.assert_allclose(bradley_terry(wins), truth - truth.mean(), atol=0.08)


def test_bradley_terry_stays_finite_for_a_method_that_always_wins() -> None:
    assert np.isfinite(bradley_terry([[0, 9], [0, 0]])).all()
    with pytest.raises(ValueError, match="a square"):
        bradley_terry([[0, 1]])


def test_identification_is_its_definition() -> None:
    real, reconstructed = torch.randn(7, 5), torch.randn(7, 5)
    r = np.corrcoef(reconstructed.numpy(), real.numpy())[:7, 7:]
    expected = [np.mean([r[j, i] < r[j, j] for i in range(7) if i != j]) for j in range(7)]
    for block in (2, 100):
        np.testing.assert_allclose(two_way_identification(reconstructed, real, block), expected)
    assert two_way_identification(real, real).tolist() == [1.0] * 7
    assert two_way_identification(torch.ones(4, 3), torch.ones(4, 3)).tolist() == [0.5] * 4


def test_average_precision_by_hand() -> None:
    # same at ranks 1 and 3: precision 1 up to recall 1/2, then 2/3
    assert average_precision([0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([0.1, 0.2], [1, 1]) == 1.0
    tied = [average_precision([0.1, 0.1], same) for same in ([1, 0], [0, 1])]
    assert tied[0] == tied[1] == 0.5
    with pytest.raises(ValueError, match=r"nobody took one of the 2 pairs for the same.*ask more people"):
        average_precision([0.1, 0.2], [0, 0])
