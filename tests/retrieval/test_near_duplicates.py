from typing import Any

import numpy as np
import pytest
from retrieval.synthetic_index import random_rows

from dreamsim_guidance.retrieval.matrix import distance_matrix, nearest_neighbours
from dreamsim_guidance.retrieval.near_duplicates import near_duplicate_groups, suggest_threshold


def on_circle(*angles: float) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def distance(angle: float) -> float:
    return 1 - float(np.cos(angle))


CHAIN = on_circle(0, 0.1, 0.205, 0.3, 2)  # each near the next; the last apart


def rows_of(vectors: np.ndarray, threshold: float, **options: Any) -> list[tuple[int, ...]]:
    return [group.rows for group in near_duplicate_groups(vectors, threshold, **options).groups]


def test_a_chain_is_one_component_and_several_complete_groups() -> None:
    threshold = distance(0.11)
    assert rows_of(CHAIN, threshold, linkage="single") == [(0, 1, 2, 3)]
    assert rows_of(CHAIN, threshold) == [(0, 1), (2, 3)]


def test_pairs_that_complete_linkage_separates_are_counted() -> None:
    result = near_duplicate_groups(CHAIN, distance(0.11))
    assert (result.pairs, result.separated) == (3, 1)  # 1 and 2
    assert near_duplicate_groups(CHAIN, distance(0.11), "single").separated == 0


def test_every_pair_of_a_complete_group_is_within_the_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.rows._NUMBERS", 400)  # several blocks
    rows = random_rows(120, 3)
    matrix = distance_matrix(rows)
    result = near_duplicate_groups(rows, 0.05)
    assert len(result.groups) > 5
    for group in result.groups:
        part = matrix[np.ix_(group.rows, group.rows)]
        assert part.max() <= 0.05 and group.diameter == pytest.approx(part.max(), abs=1e-6)
    inside = sum(len(group.rows) * (len(group.rows) - 1) // 2 for group in result.groups)
    assert result.pairs == (matrix[np.triu_indices(120, 1)] <= 0.05).sum() == inside + result.separated


def test_components_are_those_of_the_whole_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.sparse.csgraph import connected_components

    monkeypatch.setattr("dreamsim_guidance.retrieval.rows._NUMBERS", 400)
    rows = random_rows(150, 3)
    label = connected_components(distance_matrix(rows) <= 0.01, directed=False)[1]
    expected = {tuple(np.flatnonzero(label == k)) for k in set(label) if (label == k).sum() > 1}
    assert set(rows_of(rows, 0.01, linkage="single")) == expected


@pytest.mark.parametrize("linkage", ["complete", "single"])
def test_copies_are_a_group_at_threshold_zero(linkage: str) -> None:
    rows = np.repeat(random_rows(4, 9), [3, 1, 2, 1], axis=0).astype(np.float16)
    assert rows_of(rows, 0.0, linkage=linkage) == [(0, 1, 2), (4, 5)]


def test_a_distance_equal_to_the_threshold_counts() -> None:
    threshold = float(distance_matrix(on_circle(0, 0.3))[0, 1])
    assert rows_of(on_circle(0, 0.3), threshold) == [(0, 1)]
    assert rows_of(on_circle(0, 0.3, 1), threshold) == [(0, 1)]


def test_many_copies_of_one_picture_are_no_chain_to_divide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.near_duplicates._LARGEST_COMPONENT", 3)
    assert len(rows_of(np.repeat(random_rows(1, 4), 50, axis=0), 0.1)[0]) == 50
    with pytest.raises(ValueError, match=r"4 pictures form one chain .* use linkage 'single'"):
        near_duplicate_groups(CHAIN, distance(0.11))


def test_only_given_pairs_are_compared() -> None:
    pairs = [(np.array([0, 2]), np.array([1, 4]))]
    assert rows_of(CHAIN, distance(0.11), pairs=pairs) == [(0, 1)]


def test_without_near_duplicates_there_is_no_group() -> None:
    result = near_duplicate_groups(np.eye(5), 0.5)
    assert result.groups == () and result.pairs == 0


def test_the_suggested_threshold_lies_in_the_gap() -> None:
    random = np.random.default_rng(1)
    originals = random_rows(200, 30)
    altered = originals[:25] + 0.01 * random.normal(size=(25, 30))
    rows = np.concatenate([originals, altered / np.linalg.norm(altered, axis=1, keepdims=True)])
    suggestion = suggest_threshold(nearest_neighbours(rows)[1])
    assert suggestion.gap
    assert {group.rows for group in near_duplicate_groups(rows, suggestion.threshold).groups} == {
        (i, 200 + i) for i in range(25)
    }


def test_without_a_gap_the_suggestion_is_a_quantile_and_says_so() -> None:
    nearest = np.linspace(0.2, 0.25, 101).astype(np.float32)
    suggestion = suggest_threshold(nearest)
    assert not suggestion.gap and suggestion.threshold == pytest.approx(0.2005)
    assert set(suggestion.quantiles) == {1, 5, 25, 50}


def test_copies_alone_suggest_zero() -> None:
    assert suggest_threshold(np.zeros(6, np.float32)).threshold == 0


@pytest.mark.parametrize("threshold", [-0.1, 2.1, float("nan")])
def test_thresholds_that_are_no_distance_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\]"):
        near_duplicate_groups(np.eye(2), threshold)


@pytest.mark.usefixtures("unchecked")
def test_unknown_linkages_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown linkage 'average'; known: complete, single"):
        near_duplicate_groups(np.eye(2), 0.1, "average")  # type: ignore[arg-type]
