import numpy as np
import pytest
from retrieval.synthetic_index import random_rows

from dreamsim_guidance.retrieval.consistency import natural_order, temporal_consistency


def as_vbench_does(rows: np.ndarray) -> float:
    """The loop of VBench's subject_consistency.py, on unit features."""
    total = 0.0
    for i in range(1, len(rows)):
        to_previous = max(0.0, float(rows[i - 1] @ rows[i]))
        to_first = max(0.0, float(rows[0] @ rows[i]))
        total += (to_previous + to_first) / 2
    return total / (len(rows) - 1)


def test_a_still_video_is_perfectly_consistent() -> None:
    result = temporal_consistency(np.repeat(random_rows(1, 8), 5, axis=0))
    assert result.score == 1 and not result.previous_distances.any() and not result.first_distances.any()


def test_score_is_that_of_vbench() -> None:
    rows = random_rows(12, 5)  # some similarities are negative and count as zero
    assert (rows[1:] @ rows[0] < 0).any()
    assert temporal_consistency(rows).score == pytest.approx(as_vbench_does(rows), abs=1e-6)


def test_alternating_frames_have_known_parts() -> None:
    result = temporal_consistency(np.eye(2)[[0, 1, 0, 1]])
    assert (result.to_previous, result.to_first) == (0, pytest.approx(1 / 3))
    assert result.score == pytest.approx(1 / 6)
    assert result.previous_distances.tolist() == [1, 1, 1] and result.first_distances.tolist() == [1, 0, 1]


def test_a_cut_is_the_largest_jump() -> None:
    angles = np.array([0, 0.01, 0.02, 1.0, 1.01])
    assert temporal_consistency(np.stack([np.cos(angles), np.sin(angles)], 1)).largest_jump == 3


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 pictures are needed, got 1"):
        temporal_consistency(np.eye(1))


@pytest.mark.parametrize(
    "names",
    [
        ["f1.png", "f2.png", "f10.png"],
        ["f0001.png", "f2.png", "f03.png"],
        ["a/9.png", "a/10.png", "b/1.png"],
        ["shot2_frame9", "shot2_frame11", "shot10_frame1"],
        ["1", "2a", "10", "a1"],
        ["f².png", "f9.png"],
    ],
)
def test_numbers_in_names_are_sorted_as_numbers(names: list[str]) -> None:
    if "f²" in names[0]:  # a superscript is no digit of a frame number, and must not stop the sort
        assert sorted(natural_order(names)) == sorted(names)
        return
    assert natural_order(sorted(names, reverse=True)) == names
