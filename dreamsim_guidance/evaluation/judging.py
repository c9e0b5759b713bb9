"""Evaluate metrics against people, from picture files to a report: triplets, same-or-different pairs, and mean scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.same_pairs import SamePairs
from dreamsim_guidance.evaluation.jnd import judge_same_pairs
from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric
from dreamsim_guidance.evaluation.metrics.work import Work
from dreamsim_guidance.evaluation.quality import judge_ratings
from dreamsim_guidance.evaluation.report import Report
from dreamsim_guidance.evaluation.robustness.attack import Attack
from dreamsim_guidance.evaluation.robustness.attacked_triplets import AttackedDistances, attack_triplets
from dreamsim_guidance.evaluation.robustness.robustness import robustness
from dreamsim_guidance.evaluation.score import check_rules, judge
from dreamsim_guidance.evaluation.statistics.agreement import RULES

__all__ = ["Data", "Evaluation", "evaluate", "pairs_of"]

log = logging.getLogger(__name__)

Data = Judgments | SamePairs | Ratings
"""What `dreamsim_guidance.data.read_judgments` returns."""


@dataclass(frozen=True)
class Evaluation:
    """The report, the judgments it is about, and each metric's distances in the order of `pairs_of(data)`.

    attacked: each metric's distances under the attacks; empty without attacks.
    """

    report: Report
    data: Data
    distances: dict[str, NDArray[np.float64]]
    attacked: dict[str, AttackedDistances] = field(default_factory=dict)


def evaluate(
    data: Data,
    metrics: Mapping[str, FileMetric],
    rules: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = True,
    tell: Callable[[str], None] = log.info,
    attacks: Sequence[Attack | str] = (),
) -> Evaluation:
    """Evaluate metrics on a set of judgments, one after the other.

    A metric that fails does not stop the others; `report.failed` gives the reasons.

    data: triplets, pairs or ratings, as `read_judgments` returns them.
    metrics: by the name under which they are reported; see `load_metrics`.
    rules: of agreement, for triplets only; by default all of `RULES`.
    resamples, seed, level: of the bootstrap intervals; by default 2000 resamples at 95 %.
    progress: whether to show a bar on stderr.
    tell: called with one line about each metric's work or failure.
    attacks: of an adversary that changes the candidate that a metric prefers, on triplets; `Attack`, or a text such as
        "linf:4/255". By default none. Each metric must be differentiable; `report.robustness` has the results.

    Raises ValueError for an empty set, unknown rules, a text that is no attack, rules or attacks for a set of another kind, and
    if no metric could run.
    """
    for name, value in (("rules", rules), ("attacks", attacks)):
        if value and not isinstance(data, Judgments):
            raise ValueError(f"{name} are for triplets, and this set has {_KINDS[type(data)]}; leave them out.")
    check_rules(rules)
    if len(data) == 0:
        raise ValueError("the set is empty: nothing to judge.")
    wanted = [Attack.parse(attack) if isinstance(attack, str) else attack for attack in attacks]
    pairs = pairs_of(data)
    distances: dict[str, NDArray[np.float64]] = {}
    failed: dict[str, str] = {}
    work: dict[str, Work] = {}
    for name, metric in metrics.items():
        try:
            values = np.asarray(metric.distances(pairs, progress), dtype=np.float64)
            if values.shape != (len(pairs),) or not np.isfinite(values).all():
                raise ValueError(f"{name} gave {values.shape} distances, {int(np.isnan(values).sum())} of them NaN.")
        except Exception as error:  # a user's metric may raise anything, and the others must still run
            failed[name] = " ".join(str(error).split()) or type(error).__name__
            tell(f"{name} did not run: {failed[name]}")
            continue
        distances[name] = values
        amount = getattr(metric, "work", None)
        if isinstance(amount, Work):
            work[name] = amount
            tell(f"{name}: {amount}")
    if not distances:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items()) or "none was given"
        raise ValueError(f"no metric could run ({reasons})")
    report = _judge(data, distances, rules, resamples, seed, level)
    attacked: dict[str, AttackedDistances] = {}
    if wanted and isinstance(data, Judgments):
        for name in distances:
            try:
                attacked[name] = attack_triplets(metrics[name], data, wanted, seed, progress)
            except Exception as error:  # as above; what a user's metric raises depends on why it has no gradient
                failed[name] = f"under attack: {' '.join(str(error).split()) or type(error).__name__}"
                tell(f"{name} was not attacked: {failed[name].partition(': ')[2]}")
        report = replace(report, robustness=robustness(attacked, data, wanted, rules or RULES, resamples, seed, level))
    return Evaluation(replace(report, failed=failed, work=work), data, distances, attacked)


def pairs_of(data: Data) -> list[tuple[Path, Path]]:
    """Return the pairs of files to compare. For triplets: every reference with its a, then every reference with its b."""
    if isinstance(data, Judgments):
        columns = (np.concatenate([data.reference] * 2), np.concatenate([data.a, data.b]))
    else:
        columns = (data.a, data.b) if isinstance(data, SamePairs) else (data.reference, data.distorted)
    return [(data.images[i], data.images[j]) for i, j in zip(*(c.tolist() for c in columns), strict=True)]


_KINDS = {SamePairs: "pairs that were taken for the same or not", Ratings: "mean scores"}


def _judge(
    data: Data, distances: dict[str, NDArray[np.float64]], rules: Sequence[str], resamples: int, seed: int, level: float
) -> Report:
    if isinstance(data, Judgments):
        n = len(data)
        sides = {name: (values[:n], values[n:]) for name, values in distances.items()}
        return judge(sides, data, resamples, seed, rules or RULES, level)
    if isinstance(data, SamePairs):
        return judge_same_pairs(distances, data, resamples, seed, level)
    return judge_ratings(distances, data, resamples, seed, level)
