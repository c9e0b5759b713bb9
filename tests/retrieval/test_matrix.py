import numpy as np
import pytest
from retrieval.synthetic_index import random_rows

from dreamsim_guidance.retrieval.matrix import distance_matrix, distance_rows, hierarchical_order, nearest_neighbours


def test_matrix_is_the_distance_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.rows._NUMBERS", 25)  # several blocks
    rows = random_rows(13, 6)
    matrix = distance_matrix(rows)
    expected = 0.5 * np.square(rows[:, None].astype(np.float64) - rows[None]).sum(-1)
    assert np.allclose(matrix, expected, atol=1e-6)
    assert (matrix == matrix.T).all() and not matrix.diagonal().any()


def test_two_collections_are_compared_row_by_row() -> None:
    a, b = random_rows(4, 6), random_rows(7, 6, 1)
    assert np.allclose(distance_matrix(a, b), 1 - a @ b.T, atol=1e-6)


def test_known_distances() -> None:
    matrix = distance_matrix(np.array([[1.0, 0], [0, 1], [-1, 0]]))
    assert matrix.tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]


def test_rows_written_one_after_the_other_make_the_same_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(11, 6)
    monkeypatch.setattr("dreamsim_guidance.retrieval.matrix._NUMBERS", 30)  # two rows at a time
    parts = list(distance_rows(rows))
    assert [len(part) for part in parts] == [2, 2, 2, 2, 2, 1]
    assert np.allclose(np.concatenate(parts), distance_matrix(rows), atol=1e-6)


def test_hierarchical_order_puts_groups_together() -> None:
    random = np.random.default_rng(0)
    centres = random_rows(3, 20)
    group = random.permutation(np.repeat(np.arange(3), 5))
    rows = centres[group] + 0.02 * random.normal(size=(15, 20))
    order = hierarchical_order(distance_matrix(rows / np.linalg.norm(rows, axis=1, keepdims=True)))
    assert sorted(order) == list(range(15))
    assert (np.diff(group[order]) != 0).sum() == 2  # each group in one piece


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_pictures_have_an_order(n: int) -> None:
    assert hierarchical_order(distance_matrix(random_rows(n, 4))).tolist() == list(range(n))


def test_matrices_beyond_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.matrix.LARGEST_MATRIX", 3)
    with pytest.raises(ValueError, match=r"4 x 4 distances would need .* row by row"):
        distance_matrix(random_rows(4, 4))


def test_collections_of_two_metrics_are_refused() -> None:
    with pytest.raises(ValueError, match="one dimension, got 4 and 5"):
        distance_matrix(random_rows(2, 4), random_rows(2, 5))
    with pytest.raises(ValueError, match="must be square"):
        hierarchical_order(np.zeros((2, 3), np.float32))


def test_the_nearest_neighbour_is_another_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.matrix._NUMBERS", 40)
    rows = random_rows(11, 4)
    matrix = distance_matrix(rows)
    np.fill_diagonal(matrix, 9)
    neighbours, distances = nearest_neighbours(rows)
    assert np.allclose(distances, matrix.min(1), atol=1e-6) and (neighbours == matrix.argmin(1)).all()
    sample = np.array([7, 2])
    assert nearest_neighbours(rows, sample)[0].tolist() == neighbours[sample].tolist()
