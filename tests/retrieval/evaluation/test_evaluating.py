"""Evaluation of whole tasks: known distances, exclusion of the query, ties, intervals, failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamsim_guidance.evaluation.metrics.named_metrics import file_metric, load_metrics
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.retrieval.evaluation import (
    RetrievalTask,
    chance,
    evaluate_retrieval,
    retrieval_markdown,
    retrieval_text,
)
from dreamsim_guidance.retrieval.evaluation.distances import chord_distances
from dreamsim_guidance.retrieval.evaluation.task import by_label


class Positions:
    """A metric of files whose names are numbers: the distance is that of the numbers."""

    name = "positions"

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        assert all(a != b for a, b in pairs)  # the query is never compared with itself
        return np.array([abs(float(a.stem) - float(b.stem)) for a, b in pairs])


class Constant(Positions):
    name = "constant"

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        return np.zeros(len(pairs))


class Broken(Positions):
    name = "broken"

    def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
        raise RuntimeError("it cannot be")


def files(*numbers: float) -> list[Path]:
    return [Path(f"{number}.png") for number in numbers]


def test_a_metric_that_sees_the_classes_has_map_one_and_a_constant_one_is_at_chance() -> None:
    task = by_label("two", files(1, 2, 3, 11, 12, 13), ["a"] * 3 + ["b"] * 3)
    report = evaluate_retrieval([task], {"positions": Positions(), "constant": Constant()}).tasks["two"]
    assert report.scores["positions"]["mAP"].value == 1
    expected = chance(5, 2)  # the query itself is not in its ranking
    for i, (name, interval) in enumerate(report.scores["constant"].items()):
        assert interval.value == pytest.approx(expected[i]) == pytest.approx(report.chance[name])
    assert report.tied == {"positions": 0.0, "constant": 1.0}
    assert report.differences["constant"]["mAP"].value == pytest.approx(expected[0] - 1)
    assert (report.queries, report.gallery, report.groups, report.relevant) == (6, 6, 2, 2)


def test_an_example_computed_by_hand() -> None:
    # on a line: a at 0 and 3, b at 1 and 7
    task = by_label("line", files(0, 3, 1, 7), ["a", "a", "b", "b"])
    report = evaluate_retrieval([task], {"positions": Positions()}, (1, 2)).tasks["line"]
    # 0: 1 3 7, rank 2; 3: 1 (2) 0 (3) 7 (4), rank 2; 1: 0 3 7, rank 3; 7: 3 1 0, rank 2
    scores = {name: interval.value for name, interval in report.scores["positions"].items()}
    assert scores == pytest.approx(
        {
            "mAP": (1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4,
            "recall at 1": 0,
            "recall at 2": 3 / 4,
            "hit at 1": 0,
            "hit at 2": 3 / 4,
        }
    )


def test_labels_in_common_decide_and_the_query_is_not_relevant_to_itself() -> None:
    labels = (frozenset("ab"), frozenset("b"), frozenset("c"), frozenset[str]())
    task = RetrievalTask("several", tuple(files(0, 1, 2, 3)), labels)
    ((places, relevant),) = task.relevance()
    assert places.tolist() == [0, 1, 2, 3]
    assert relevant.tolist() == [[False, True, False, False], [True, False, False, False], [False] * 4, [False] * 4]
    report = evaluate_retrieval([task], {"positions": Positions()}).tasks["several"]
    assert (report.queries, report.left_out) == (2, 2)


def test_a_task_without_answers_is_refused_before_a_metric_runs() -> None:
    good = by_label("good", files(1, 2), ["a", "a"])
    alone = by_label("alone", files(1, 2), ["a", "b"])
    with pytest.raises(
        ValueError, match="task alone: the gallery holds no relevant picture for any query; leave it out"
    ):
        evaluate_retrieval([good, alone], {"broken": Broken()})


def test_intervals_draw_whole_groups() -> None:
    numbers = np.random.default_rng(0).permutation(60)
    names = [str(i // 6) for i in range(60)]
    task = by_label("random", files(*numbers.tolist()), names)
    single = RetrievalTask(task.name, task.files, task.labels)
    grouped, alone = (
        evaluate_retrieval([t], {"positions": Positions()}).tasks["random"].scores["positions"]["mAP"]
        for t in (task, single)
    )
    assert grouped.value == alone.value
    assert (grouped.clusters, alone.clusters) == (10, 60)
    assert grouped.low < grouped.value < grouped.high


def test_a_sample_of_queries_keeps_the_gallery_and_only_answerable_queries() -> None:
    task = by_label("many", files(*range(40)), [str(i // 2) for i in range(38)] + ["x", "y"])
    sampled = task.sample(10)
    assert len(sampled.query_places) == 10 and len(sampled.gallery_places) == 40
    assert sampled == task.sample(10) != task.sample(10, seed=1)
    assert len(task.sample(100).query_places) == 38


def test_a_metric_that_fails_does_not_stop_the_others() -> None:
    task = by_label("two", files(1, 2, 11, 12), ["a", "a", "b", "b"])
    lines: list[str] = []
    metrics = {"broken": Broken(), "positions": Positions()}
    report = evaluate_retrieval([task], metrics, tell=lines.append)
    assert report.tasks["two"].failed == {"broken": "it cannot be"}
    assert lines == ["broken did not run on two: it cannot be"]
    assert "broken did not run: it cannot be" in retrieval_text(report)
    with pytest.raises(ValueError, match="no metric could run on two"):
        evaluate_retrieval([task], {"broken": Broken()}, tell=lines.append)


def test_tables_show_every_task_metric_and_measure() -> None:
    tasks = [
        by_label("few", files(1, 2, 11, 12), ["a", "a", "b", "b"]),
        by_label("more", files(1, 2, 3, 11, 12, 13), ["a"] * 3 + ["b"] * 3),
    ]
    report = evaluate_retrieval(tasks, {"positions": Positions(), "constant": Constant()}, (1, 3))
    text = retrieval_text(report)
    assert "difference to positions" in text and "1.000 [1.000, 1.000]" in text
    page = retrieval_markdown(report)
    for words in (
        "| few ",
        "| more ",
        "recall at 3",
        "hit at 3",
        "| chance ",
        "4 queries in 2 groups",
        "mean over the orders",
    ):
        assert words in page
    single = retrieval_markdown(evaluate_retrieval(tasks[:1], {"positions": Positions()}, (1, 3)))
    assert "hit at" not in single  # it equals the recall where one picture is relevant


def test_mistakes_in_a_task_are_errors() -> None:
    a = frozenset("a")
    with pytest.raises(ValueError, match=r"'1\.png' is listed twice"):
        RetrievalTask("t", tuple(files(1, 1)), (a, a))
    with pytest.raises(ValueError, match="same length"):
        RetrievalTask("t", tuple(files(1, 2)), (a,))
    with pytest.raises(ValueError, match="positions outside of the 2 pictures"):
        RetrievalTask("t", tuple(files(1, 2)), (a, a), queries=(2,))
    with pytest.raises(ValueError, match="'gallery' is empty"):
        RetrievalTask("t", tuple(files(1, 2)), (a, a), gallery=())
    with pytest.raises(ValueError, match="'gallery' holds a position twice"):
        RetrievalTask("t", tuple(files(1, 2)), (a, a), gallery=(1, 1))
    with pytest.raises(ValueError, match="no relevant picture for any query"):
        by_label("t", files(1, 2), ["a", "b"]).answerable()
    task = by_label("t", files(1, 2), ["a", "a"])
    with pytest.raises(ValueError, match="different names"):
        evaluate_retrieval([task, task], {"positions": Positions()})
    with pytest.raises(ValueError, match="at least 1"):
        evaluate_retrieval([task], {"positions": Positions()}, (0,))


def test_equal_embeddings_are_exactly_tied_wherever_they_lie() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(37, 129)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gallery = np.concatenate([rows, rows[::-1]]).astype(np.float64)
    distances = chord_distances(rows[:5].astype(np.float64), gallery)
    assert (distances[:, :37] == distances[:, :36:-1]).all()
    np.testing.assert_allclose(distances[:, :37], 0.5 * np.square(rows[:5, None] - rows[None]).sum(2), atol=1e-6)
    assert (np.diag(distances) == 0).all()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    places = [tmp_path / f"{i}.png" for i in range(6)]
    for i, place in enumerate(places):
        save_image(torch.full((3, 40, 40), 0.1 * i) + 0.3 * torch.rand(3, 40, 40), place)
    return places


def test_embeddings_give_the_measures_of_compared_pairs(pictures: list[Path]) -> None:
    pocket = load_metrics(["pocket"], device="cpu", cache=False)["pocket"]

    class Pairs:
        name = "pairs"

        def distances(self, pairs: Sequence[tuple[Path, Path]], progress: bool = True) -> NDArray[np.float64]:
            return pocket.distances(pairs, progress)

    task = by_label("pictures", pictures, ["a", "b", "a", "b", "a", "b"])
    report = evaluate_retrieval([task], {"pocket": pocket, "pairs": Pairs()}, progress=False).tasks["pictures"]
    assert report.scores["pocket"] == report.scores["pairs"]


def test_a_users_function_is_evaluated(pictures: list[Path]) -> None:
    def brightness(x: Tensor, y: Tensor) -> Tensor:
        return (x.mean((1, 2, 3)) - y.mean((1, 2, 3))).abs()

    task = by_label("pictures", pictures, ["dark"] * 3 + ["bright"] * 3)
    report = evaluate_retrieval([task], {"brightness": file_metric(brightness)}, progress=False).tasks["pictures"]
    assert report.scores["brightness"]["mAP"].value > 0.7
