import numpy as np
import pytest
import torch
from retrieval.synthetic_index import random_rows

from dreamsim_guidance.retrieval.rows import blocks, half_chords, unit_rows


def test_float16_rows_are_scaled_to_length_one_again() -> None:
    rows = unit_rows(random_rows(50, 40).astype(np.float16))
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert rows.dtype == np.float32


def test_tensors_of_any_precision_are_accepted() -> None:
    rows = torch.from_numpy(random_rows(5, 8))
    assert np.allclose(unit_rows(rows.double()), rows, atol=1e-6)
    assert np.allclose(unit_rows(rows.bfloat16()), rows, atol=1e-2)


def test_distances_of_nearly_equal_rows_are_exact() -> None:
    rows = random_rows(20, 64)
    other = unit_rows(rows + np.float32(1e-5) * random_rows(20, 64, 1))
    exact = 0.5 * np.square(rows.astype(np.float64) - other).sum(1)
    computed = half_chords(unit_rows(rows), other).diagonal()
    assert 0 < exact.max() < 1e-9
    assert np.allclose(computed, exact, rtol=1e-2, atol=1e-13)


def test_the_distance_of_a_row_to_itself_is_zero() -> None:
    rows = unit_rows(random_rows(30, 100))
    assert not half_chords(rows, rows).diagonal().any()


def test_blocks_cover_each_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.rows._NUMBERS", 9)  # blocks of 3 x 3
    rows = unit_rows(random_rows(8, 5))
    covered = np.zeros((8, 8), int)
    for i, j, block in blocks(rows):
        assert block.size <= 9
        covered[i : i + block.shape[0], j : j + block.shape[1]] += 1
    assert (covered[np.triu_indices(8)] == 1).all()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones(3), r"must have shape \(n, d\).*got \(3,\)"),
        (np.empty((0, 4)), "at least 1 picture is needed, got 0"),
        (np.full((2, 4), np.nan), "row 0 is not"),
        (np.array([[1.0, 0], [2, 0]]), "row 1 has length 2"),
        (np.array([[1.0, 0], [0, 0]]), "row 1 has length 0"),
    ],
)
def test_what_is_no_unit_row_is_refused(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unit_rows(vectors)
