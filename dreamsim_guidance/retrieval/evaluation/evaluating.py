"""Evaluate metrics on retrieval tasks: measures with intervals, and the difference of each metric to the first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap, paired_difference
from dreamsim_guidance.retrieval.evaluation.distances import gallery_distances
from dreamsim_guidance.retrieval.evaluation.ranking import chance, measure_names, ranking_scores, ties_matter
from dreamsim_guidance.retrieval.evaluation.task import RetrievalTask

__all__ = ["RetrievalReport", "TaskReport", "evaluate_retrieval"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskReport:
    """The results of one task.

    rule: what makes a picture relevant.
    queries, gallery: pictures of each kind.
    left_out: queries without a relevant picture in the gallery, which are not evaluated.
    relevant: mean number of relevant pictures of a query.
    groups: clusters of queries that the bootstrap draws.
    chance: of each measure, what a random ranking reaches in expectation.
    scores: of each metric and measure, the mean over queries with its interval. The mean of average precision is the mAP.
    differences: of each further metric, the paired difference to the first one, with its interval.
    tied: of each metric, the share of queries for which a relevant picture is exactly as far as another one.
    failed: metrics that could not run, with the reason.
    """

    rule: str
    queries: int
    gallery: int
    left_out: int
    relevant: float
    groups: int
    chance: dict[str, float]
    scores: dict[str, dict[str, Interval]]
    differences: dict[str, dict[str, Interval]]
    tied: dict[str, float]
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RetrievalReport:
    """The results of several tasks by name; `level`, `resamples` and `seed` are those of the bootstrap intervals."""

    tasks: dict[str, TaskReport]
    cutoffs: tuple[int, ...] = (1, 5, 10)
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0


def evaluate_retrieval(
    tasks: Sequence[RetrievalTask],
    metrics: Mapping[str, FileMetric],
    cutoffs: Sequence[int] = (1, 5, 10),
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = True,
    tell: Callable[[str], None] = log.info,
) -> RetrievalReport:
    """Rank the gallery of each task by each metric and return the measures of `ranking_scores`.

    The query's own file is never in its ranking. Queries for which nothing is relevant are left out and counted. Intervals
    bootstrap whole groups of queries; differences are paired by query. A metric that fails on a task does not stop the others.

    tasks: with different names.
    metrics: by the name under which they are reported; see `load_metrics`.
    cutoffs: the k of recall and hits.
    resamples, seed, level: of the bootstrap; by default 2000 resamples at 95 %.
    progress: whether to show bars on stderr.
    tell: called with one line about each metric that failed.

    Raises ValueError for repeated task names, for a task without answerable queries, for cutoffs below 1, and if no metric
    could run on a task.
    """
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"tasks must have different names, got {', '.join(names)}.")
    if not tasks or not metrics:
        raise ValueError("at least one task and one metric are needed.")
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs must be at least 1, got {list(cutoffs)}.")
    answerable = [task.answerable() for task in tasks]  # all of them, before the first picture is read
    reports = {
        task.name: _evaluate(task, part, metrics, tuple(cutoffs), resamples, seed, level, progress, tell)
        for task, part in zip(tasks, answerable, strict=True)
    }
    return RetrievalReport(reports, tuple(cutoffs), level, resamples, seed)


def _evaluate(
    task: RetrievalTask,
    answerable: RetrievalTask,
    metrics: Mapping[str, FileMetric],
    cutoffs: tuple[int, ...],
    resamples: int,
    seed: int,
    level: float,
    progress: bool,
    tell: Callable[[str], None],
) -> TaskReport:
    counts = np.concatenate([rows.sum(1) for _, rows in answerable.relevance()])
    places = answerable.query_places
    sizes = len(answerable.gallery_places) - np.isin(places, answerable.gallery_places)
    kinds, times = np.unique(np.stack([sizes, counts]), axis=1, return_counts=True)
    by_kind = np.stack([chance(int(n), int(r), cutoffs) for n, r in kinds.T])
    groups = np.array([str(i) for i in places] if answerable.groups is None else [answerable.groups[i] for i in places])
    measures = measure_names(cutoffs)
    values: dict[str, NDArray[np.float64]] = {}
    tied: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            values[name], tied[name] = _scores(answerable, metric, cutoffs, progress)
        except Exception as error:  # a user's metric may raise anything, and the others must still run
            failed[name] = " ".join(str(error).split()) or type(error).__name__
            tell(f"{name} did not run on {task.name}: {failed[name]}")
    if not values:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ValueError(f"no metric could run on {task.name} ({reasons})")
    first = next(iter(values))
    options: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    return TaskReport(
        rule=task.rule,
        queries=len(places),
        gallery=len(answerable.gallery_places),
        left_out=len(task.query_places) - len(places),
        relevant=float(counts.mean()),
        groups=len(np.unique(groups)),
        chance=dict(zip(measures, np.average(by_kind, axis=0, weights=times).tolist(), strict=True)),
        scores={
            name: {m: cluster_bootstrap(column, groups, **options) for m, column in zip(measures, rows.T, strict=True)}
            for name, rows in values.items()
        },
        differences={
            name: {
                measure: paired_difference(rows[:, i], values[first][:, i], groups, **options)
                for i, measure in enumerate(measures)
            }
            for name, rows in values.items()
            if name != first
        },
        tied=tied,
        failed=failed,
    )


def _scores(
    task: RetrievalTask, metric: FileMetric, cutoffs: tuple[int, ...], progress: bool
) -> tuple[NDArray[np.float64], float]:
    """The measures of every query, `(queries, measures)`, and the share of queries whose order is not decided."""
    gallery = task.gallery_places
    rows: dict[int, NDArray[np.float64]] = {}
    relevance = {int(i): row for part, table in task.relevance() for i, row in zip(part, table, strict=True)}
    undecided = 0
    for part, table in gallery_distances(metric, task.files, task.query_places, gallery, progress):
        for query, distances in zip(part.tolist(), table, strict=True):
            others = gallery != query
            d, relevant = distances[others], relevance[query][others]
            rows[query] = ranking_scores(d, relevant, cutoffs)
            undecided += ties_matter(d, relevant)
    return np.stack([rows[query] for query in task.query_places.tolist()]), undecided / len(rows)
