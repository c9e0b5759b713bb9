"""Average precision, recall and hits against hand computations, closed forms and enumeration of all orders."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from dreamsim_guidance.retrieval.evaluation.ranking import chance, measure_names, ranking_scores, ties_matter


def test_values_have_names_in_order() -> None:
    assert measure_names((1, 5)) == ["mAP", "recall at 1", "recall at 5", "hit at 1", "hit at 5"]


def test_an_example_computed_by_hand() -> None:
    # relevant pictures at ranks 1, 3 and 4: average precision (1/1 + 2/3 + 3/4) / 3
    values = ranking_scores([0.1, 0.2, 0.3, 0.4, 0.5], [True, False, True, True, False], (1, 2, 3, 10))
    assert values == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1, 1, 1, 1])


def test_a_perfect_ranking_scores_one_and_the_worst_what_the_last_ranks_give() -> None:
    relevant = np.arange(10) < 3
    assert ranking_scores(np.arange(10), relevant, (1, 3)) == pytest.approx([1, 1 / 3, 1, 1, 1])
    worst = ranking_scores(-np.arange(10), relevant, (1, 5))
    assert worst == pytest.approx([(1 / 8 + 2 / 9 + 3 / 10) / 3, 0, 0, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_without_ties_is_that_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    distances, relevant = random.random(200), random.random(200) < 0.1
    expected = average_precision_score(relevant, -distances)
    assert ranking_scores(distances, relevant)[0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_tied_pictures_count_as_the_mean_over_their_orders(seed: int) -> None:
    random = np.random.default_rng(seed)
    distances = random.integers(0, 3, 6).astype(float)
    relevant = np.zeros(6, dtype=bool)
    relevant[random.choice(6, random.integers(1, 6), replace=False)] = True
    cutoffs = (1, 2, 3, 5, 9)
    orders = [
        ranking_scores(np.arange(6.0), relevant[list(order)], cutoffs)
        for order in permutations(range(6))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    assert ranking_scores(distances, relevant, cutoffs) == pytest.approx(np.mean(orders, axis=0))


def test_chance_is_the_mean_of_random_rankings() -> None:
    random = np.random.default_rng(0)
    relevant = np.arange(30) < 4
    drawn = np.mean([ranking_scores(random.random(30), relevant) for _ in range(4000)], axis=0)
    # 4000 rankings: three standard errors of a mean of values in [0, 1] are at most 0.024
    assert chance(30, 4) == pytest.approx(drawn, abs=0.024)


def test_chance_with_one_relevant_picture_is_in_closed_form() -> None:
    n = 50  # the rank is uniform: mean of 1 / rank, and k / n
    expected = [np.mean(1 / np.arange(1, n + 1)), 1 / n, 5 / n, 10 / n, 1 / n, 5 / n, 10 / n]
    assert chance(n, 1) == pytest.approx(expected)


def test_chance_of_a_hit_is_hypergeometric() -> None:
    # 10 pictures, 4 relevant: no hit in 2 draws with probability 6/10 * 5/9
    assert chance(10, 4, (2,))[2] == pytest.approx(1 - 6 / 10 * 5 / 9)


def test_the_order_of_the_gallery_does_not_matter() -> None:
    random = np.random.default_rng(1)
    distances, relevant = random.integers(0, 10, 60).astype(float), random.random(60) < 0.3
    order = random.permutation(60)
    assert ranking_scores(distances, relevant) == pytest.approx(ranking_scores(distances[order], relevant[order]))


def test_a_tie_matters_only_between_relevant_and_other_pictures() -> None:
    assert ties_matter([1.0, 1.0, 2.0], [True, False, False])
    assert not ties_matter([1.0, 1.0, 2.0, 2.0], [True, True, False, False])


def test_mistakes_are_errors() -> None:
    with pytest.raises(ValueError, match="no picture of the gallery is relevant"):
        ranking_scores([1.0, 2.0], [False, False])
    with pytest.raises(ValueError, match="must be finite, got 1"):
        ranking_scores([1.0, float("nan")], [True, False])
    with pytest.raises(ValueError, match="one length"):
        ranking_scores([1.0, 2.0], [True])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ranking_scores([1.0, 2.0], [True, False], (0,))
