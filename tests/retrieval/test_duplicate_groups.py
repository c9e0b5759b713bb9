from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from retrieval.synthetic_index import clustered_rows, random_rows, synthetic_index

from dreamsim_guidance.retrieval.duplicate_groups import find_duplicates


def test_copies_and_near_duplicates_are_distinguished(tmp_path: Path) -> None:
    vectors = random_rows(3, 16)[[0, 0, 0, 1, 2]]
    vectors[2] += 0.01 * random_rows(1, 16, 9)[0]
    vectors[2] /= np.linalg.norm(vectors[2])
    index = synthetic_index(tmp_path / "index", vectors, ["a", "a", "b", "c", "d"])
    result = find_duplicates(index, 0.01, keep="first")
    assert [[picture.path for picture in group.pictures] for group in result.groups] == [
        ["/pictures/0.png", "/pictures/1.png", "/pictures/2.png"]
    ]
    kept, copy, near = result.groups[0].pictures
    assert (kept.distance, copy.distance, copy.is_copy, near.is_copy) == (0, 0, True, False)
    assert 0 < near.distance <= 0.01 and result.groups[0].diameter == pytest.approx(near.distance, rel=1e-3)
    assert "1 groups within 0.01 among 5 pictures" in result.summary and "Nothing was deleted" in result.summary


def test_the_largest_picture_is_kept(tmp_path: Path) -> None:
    index = synthetic_index(tmp_path / "index", random_rows(1, 8).repeat(6, axis=0))  # widths 8, 9, 10, 8, 9, 10
    largest, first = (find_duplicates(index, 0.0, keep=keep).groups[0].pictures for keep in ("largest", "first"))
    assert largest[0].path == "/pictures/5.png"  # of the two widest the one with more bytes
    assert first[0].path == "/pictures/0.png"
    assert {picture.path for picture in largest} == {picture.path for picture in first}


def test_a_threshold_is_suggested_and_explained(tmp_path: Path) -> None:
    originals = random_rows(40, 20)
    near = originals[:8] + 0.02 * random_rows(8, 20, 1)
    vectors = np.concatenate([originals, near / np.linalg.norm(near, axis=1, keepdims=True)])
    messages: list[str] = []
    result = find_duplicates(synthetic_index(tmp_path / "index", vectors), tell=messages.append)
    assert len(result.groups) == 8 and result.suggestion is not None and result.suggestion.gap
    assert "widest gap below their median" in messages[0]
    assert result.described()["suggestion"]["threshold"] == result.threshold


def test_larger_collections_take_a_sample_to_suggest_a_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.duplicate_groups._SAMPLE", 30)
    index = synthetic_index(tmp_path / "index", random_rows(90, 12))
    sampled = find_duplicates(index).threshold
    monkeypatch.setattr("dreamsim_guidance.retrieval.duplicate_groups._SAMPLE", 90)
    assert sampled == pytest.approx(find_duplicates(index).threshold, rel=0.5)


def test_an_approximate_index_finds_the_same_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamsim_guidance.retrieval.duplicate_groups._CHUNK", 250)
    vectors = clustered_rows(600, 16, 150, spread=0.05)
    index = synthetic_index(tmp_path / "index", vectors)
    exact, approximate = (find_duplicates(index, 0.02, "single", exact_up_to=limit) for limit in (1000, 300))
    assert exact.exact and not approximate.exact and "may miss some" in approximate.summary
    rows = [
        {tuple(sorted(p.path for p in group.pictures)) for group in result.groups} for result in (exact, approximate)
    ]
    assert len(rows[0] & rows[1]) >= 0.95 * len(rows[0])
    assert 0.95 * exact.pairs <= approximate.pairs <= exact.pairs  # each counted once


def test_one_picture_has_no_duplicates(tmp_path: Path) -> None:
    result = find_duplicates(synthetic_index(tmp_path / "index", random_rows(1, 4)))
    assert result.groups == () and result.count == 1


@pytest.mark.usefixtures("unchecked")
def test_unknown_ways_to_keep_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown picture to keep 'best'; known: largest, first"):
        find_duplicates(synthetic_index(tmp_path / "index", random_rows(2, 4)), keep="best")  # type: ignore[arg-type]
