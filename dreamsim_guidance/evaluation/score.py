"""Agreement of metrics with people on triplets, under every rule, with intervals and with what people reach themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.readers.things import odd_one_out
from dreamsim_guidance.data.same_pairs import SamePairs
from dreamsim_guidance.evaluation.report import MEASURES, Part, Report
from dreamsim_guidance.evaluation.statistics.agreement import RULES, ceiling, credits, likenesses
from dreamsim_guidance.evaluation.statistics.intervals import Interval, Resampled, cluster_bootstrap, resample_means
from dreamsim_guidance.evaluation.statistics.psychometric import psychometric_curve

__all__ = ["ODD_ONE_OUT", "Distances", "check_rules", "judge", "labelled", "report_of"]

ODD_ONE_OUT = "odd-one-out"
"""The rule for THINGS, where two rows stand for one answer; see `readers.things`."""

_MOST_GROUPS = 200
"""If a column has more different words, they are no groups (file names, for example) and are not reported one by one."""

Distances = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Distances from the reference to a and to b, each `(n,)`."""


def judge(
    metrics: dict[str, Distances],
    judgments: Judgments,
    resamples: int = 2000,
    seed: int = 0,
    rules: Sequence[str] = RULES,
    level: float = 0.95,
) -> Report:
    """Report how well the distances of several metrics agree with the same judgments.

    rules: of `RULES`, or "odd-one-out", which needs the rows of `read_things`. A rule that leaves out every triplet is absent
        from the report.
    level, resamples, seed: of the bootstrap intervals.

    Raises ValueError for an unknown rule, for distances that are NaN or of another length, and if there is no metric.
    """
    if not metrics:
        raise ValueError("at least one metric is needed, got none.")
    check_rules(rules)

    def agreement(rows: NDArray[np.int64]) -> tuple[dict[str, Resampled], Part]:
        chosen = judgments.select(rows)
        distances = {name: (d_a[rows], d_b[rows]) for name, (d_a, d_b) in metrics.items()}
        means = _resample(distances, chosen, rules, resamples, seed)
        votes_a, votes_b = chosen.votes_a, chosen.votes_b
        several = bool((votes_a + votes_b >= 2).any())
        part = Part(
            count=len(rows),
            references=len(np.unique(chosen.reference)),
            agreement=labelled(list(metrics), means, level),
            ceiling=ceiling(votes_a, votes_b) if several else None,
            limit=float(np.mean(np.maximum(votes_a, votes_b) / (votes_a + votes_b))) if several else None,
        )
        return means, part

    report = report_of("triplets", judgments, agreement, list(metrics), rules, resamples, seed, level)
    return replace(
        report,
        ceiling_interval=_ceiling_interval(judgments, resamples, seed, level) if report.ceiling is not None else None,
        curves={
            name: psychometric_curve(d_a, d_b, judgments.votes_a, judgments.votes_b, judgments.reference, seed=seed)
            for name, (d_a, d_b) in metrics.items()
        },
    )


def report_of(
    kind: str,
    data: Judgments | SamePairs | Ratings,
    part: Callable[[NDArray[np.int64]], tuple[dict[str, Resampled], Part]],
    metrics: Sequence[str],
    measures: Sequence[str] | None,
    resamples: int,
    seed: int,
    level: float,
) -> Report:
    """Assemble a report from the results of `part` on all rows, on each split and on each group.

    measures: the names to explain; None for those that `part` returned.
    """
    means, whole = part(np.arange(len(data)))
    return Report(
        count=whole.count,
        references=whole.references,
        agreement=whole.agreement,
        ceiling=whole.ceiling,
        limit=whole.limit,
        kind=kind,
        lead=_leads(metrics, means, level),
        splits=_parts(data.split, lambda rows: part(rows)[1]),
        groups=_parts(data.group, lambda rows: part(rows)[1]),
        images=len(data.images),
        measures={name: MEASURES[name] for name in (means if measures is None else measures)},
        level=level,
        resamples=resamples,
        seed=seed,
    )


def check_rules(rules: Sequence[str]) -> None:
    """Raise ValueError if a rule is unknown."""
    if unknown := [rule for rule in rules if rule not in (*RULES, ODD_ONE_OUT)]:
        raise ValueError(f"unknown rule '{unknown[0]}'; known: {', '.join((*RULES, ODD_ONE_OUT))}.")


def labelled(names: Sequence[str], means: dict[str, Resampled], level: float) -> dict[str, dict[str, Interval]]:
    """Intervals by metric and measure, from resampled columns in the order of the metrics."""
    return {name: {m: r.interval(i, level) for m, r in means.items()} for i, name in enumerate(names)}


def _leads(names: Sequence[str], means: dict[str, Resampled], level: float) -> dict[str, dict[str, Interval]]:
    """The difference of every further metric to the first one."""
    rest = list(enumerate(names))[1:]
    return {name: {m: r.lead(i, 0, level) for m, r in means.items()} for i, name in rest if means}


def _parts(words: Sequence[str], part: Callable[[NDArray[np.int64]], Part]) -> dict[str, Part]:
    """The results on the rows of each word, in order of appearance; nothing if all rows have the same word."""
    names = list(dict.fromkeys(words))
    if not 1 < len(names) <= _MOST_GROUPS:
        return {}
    column = np.array(words)
    return {name: part(np.flatnonzero(column == name)) for name in names}


def _resample(
    metrics: dict[str, Distances],
    judgments: Judgments,
    rules: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Resampled]:
    """The mean credit of each metric under each rule, with its resamples; nothing for a rule that leaves out every row."""
    means = {}
    for rule in rules:
        if rule == ODD_ONE_OUT:
            columns = [odd_one_out(d_a, d_b).astype(np.float64) for d_a, d_b in metrics.values()]
            reference = judgments.reference[::2]
        else:
            votes = judgments.votes_a, judgments.votes_b
            columns = [credits(d_a, d_b, *votes, rule) for d_a, d_b in metrics.values()]  # type: ignore[arg-type]
            reference = judgments.reference
        table = np.stack(columns)
        if not np.isnan(table).all():
            means[rule] = resample_means(table, reference, resamples=resamples, seed=seed)
    return means


def _ceiling_interval(judgments: Judgments, resamples: int, seed: int, level: float) -> Interval:
    likeness = likenesses(judgments.votes_a, judgments.votes_b)
    return cluster_bootstrap(likeness, judgments.reference, level=level, resamples=resamples, seed=seed)
