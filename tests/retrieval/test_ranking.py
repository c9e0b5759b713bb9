import numpy as np
import pytest
from retrieval.synthetic_index import random_rows

from dreamsim_guidance.retrieval.ranking import UNLIKE_WEIGHT, Ranking
from dreamsim_guidance.retrieval.rows import unit_rows


@pytest.fixture
def rows() -> np.ndarray:
    return unit_rows(random_rows(60, 12))


def by_definition(rows: np.ndarray, queries: np.ndarray, unlike: np.ndarray, combine: str) -> np.ndarray:
    distances = (1 - rows @ queries.T).astype(np.float64)
    combined = distances.mean(1) if combine == "mean" else distances.min(1)
    return combined - UNLIKE_WEIGHT * (1 - rows @ unlike.T).mean(1) if len(unlike) else combined


@pytest.mark.parametrize("combine", ["mean", "min"])
@pytest.mark.parametrize(("queries", "unlike"), [(1, 0), (3, 0), (1, 1), (3, 2)])
def test_scores_are_those_of_the_formula(rows: np.ndarray, queries: int, unlike: int, combine: str) -> None:
    wanted, unwanted = rows[:queries], rows[queries : queries + unlike]
    ranking = Ranking(wanted, unwanted, combine)
    expected = by_definition(rows, wanted, unwanted, combine)
    distances, scores = ranking.exact(rows)
    assert np.allclose(scores, expected, atol=1e-6)
    assert np.allclose(distances, by_definition(rows, wanted, rows[:0], combine), atol=1e-6)
    # candidates are chosen by the same order
    assert np.allclose(np.diff(ranking.approximate(rows) - expected), 0, atol=1e-6)


def test_candidates_do_not_depend_on_the_rounding_of_lengths(rows: np.ndarray) -> None:
    ranking = Ranking(rows[:2])
    assert np.allclose(ranking.approximate(rows * np.float32(1.01)), ranking.approximate(rows), atol=1e-6)


def test_a_stored_vector_is_at_distance_zero_from_itself() -> None:
    stored = random_rows(200, 300).astype(np.float16)
    alone = unit_rows(stored[7:8])
    assert Ranking(alone).exact(unit_rows(stored))[0][7] == 0


def test_an_unwanted_picture_moves_back(rows: np.ndarray) -> None:
    plain, away = Ranking(rows[:1]).exact(rows)[1], Ranking(rows[:1], rows[1:2]).exact(rows)[1]
    rank = [int(np.argsort(np.argsort(scores))[1]) for scores in (plain, away)]
    assert rank[1] > rank[0]


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_go_together_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="unknown way to combine distances 'max'; known: mean, min"):
        Ranking(rows[:1], None, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one dimension, got 12 and 5"):
        Ranking(rows[:1], random_rows(1, 5))
