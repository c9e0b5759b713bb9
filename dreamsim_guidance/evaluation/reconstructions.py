"""Compare methods of reconstruction by any number of metrics, and by people's votes if there are any.

distance     mean over the references that every method has reconstructed, with an interval over references
difference   to the first method, reference by reference; known far more precisely than two separate means
two-way      identification: the share of the other references that a reconstruction is farther from than from its own,
             #{i != j : d(real_i, recon_j) > d(real_j, recon_j)} / (N - 1), chance 1/2. For centred embeddings, as DreamSim's,
             d = 1 - r with r the correlation, and this is the two-way identification of brain decoding; otherwise r is the
             cosine.

Metrics are no people: without votes, nothing here says what people prefer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dreamsim_guidance.data.reconstructions import Reconstructions
from dreamsim_guidance.evaluation.judging import pairs_of
from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric
from dreamsim_guidance.evaluation.preferences import Preferences, Standing, standings
from dreamsim_guidance.evaluation.report import Report
from dreamsim_guidance.evaluation.score import judge
from dreamsim_guidance.evaluation.statistics.identification import identification_shares
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap, paired_difference

__all__ = ["NO_VOTES", "MethodScore", "People", "ReconstructionComparison", "compare_reconstructions"]

NO_VOTES = "no votes given: nothing here says what people prefer."


@dataclass(frozen=True)
class MethodScore:
    """What one metric says about one method.

    distances: to the references, in the order of `ReconstructionComparison.references`; lower is more alike.
    distance: their mean.
    difference: of the mean to the first method's; None for that one.
    two_way: identification; None if it was not computed.
    """

    distances: NDArray[np.float64]
    distance: Interval
    difference: Interval | None
    two_way: Interval | None


@dataclass(frozen=True)
class People:
    """The standing of each method among people, and how well each metric agrees with the same people."""

    standings: dict[str, Standing]
    agreement: Report


@dataclass(frozen=True)
class ReconstructionComparison:
    """The scores of all methods under all metrics, `cells[metric][method]`.

    incomplete: references that some method has not reconstructed; they are left out of all numbers.
    failed: metrics that could not run, with the reason.
    """

    references: tuple[str, ...]
    incomplete: tuple[str, ...]
    methods: tuple[str, ...]
    cells: dict[str, dict[str, MethodScore]]
    failed: dict[str, str]
    people: People | None

    @property
    def note(self) -> str:
        """One line on the votes that this comparison rests on."""
        if self.people is None:
            return NO_VOTES
        votes = sum(standing.votes for standing in self.people.standings.values()) // 2
        references = self.people.agreement.references
        return f"votes: {votes} on {self.people.agreement.count} triplets of {references} references."


def compare_reconstructions(
    reconstructions: Reconstructions,
    metrics: dict[str, FileMetric],
    preferences: Preferences | None = None,
    *,
    two_way: Collection[str] = (),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> ReconstructionComparison:
    """Compute every metric on every method's pictures, and on the pictures that people voted on.

    two_way: names of the metrics for which identification is computed; it needs all n x n pairs, which is cheap for
        embeddings only.
    level, resamples, seed: of the bootstrap intervals.

    A metric that fails does not stop the others; `failed` gives the reasons. Raises ValueError if no metric could run, and if
    no reference was reconstructed by every method.
    """
    stems = reconstructions.complete()
    if not stems:
        lacking = ", ".join(name for name in reconstructions.missing if name != "targets")
        raise ValueError(f"no reference has been reconstructed by every method; incomplete: {lacking}.")
    cells: dict[str, dict[str, MethodScore]] = {}
    voted: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    failed: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            distances = _distances(reconstructions, stems, metric, name in two_way and len(stems) > 1, progress)
            sides = None if preferences is None else _voted(preferences, metric, progress)
        except Exception as error:  # missing weights, small pictures, a user's own metric: the others must still run
            failed[name] = " ".join(str(error).split()) or type(error).__name__
            continue
        cells[name] = _cells(distances, level, resamples, seed)
        if sides is not None:
            voted[name] = sides
    if not cells:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items()) or "none was given"
        raise ValueError(f"no metric could run ({reasons})")
    people = None
    if preferences is not None:
        people = People(
            standings(preferences, level=level, resamples=resamples, seed=seed),
            judge(voted, preferences.judgments, resamples, seed, level=level),
        )
    return ReconstructionComparison(
        references=tuple(stems),
        incomplete=tuple(stem for stem in reconstructions.targets if stem not in set(stems)),
        methods=tuple(reconstructions.methods),
        cells=cells,
        failed=failed,
        people=people,
    )


def _distances(
    reconstructions: Reconstructions, stems: Sequence[str], metric: FileMetric, all_pairs: bool, progress: bool
) -> dict[str, NDArray[np.float64]]:
    """For each method the distances of reconstructions to their targets, `(n,)`, or to all targets, `(n, n)`."""
    targets = [reconstructions.targets[stem] for stem in stems]
    pairs: list[tuple[Path, Path]] = []
    for files in reconstructions.methods.values():
        pictures = [files[stem] for stem in stems]
        pairs += (
            [(target, picture) for picture in pictures for target in targets]
            if all_pairs
            else list(zip(targets, pictures, strict=True))
        )
    shape = (
        (len(reconstructions.methods), len(stems), len(stems))
        if all_pairs
        else (len(reconstructions.methods), len(stems))
    )
    return dict(zip(reconstructions.methods, _finite(metric, pairs, progress).reshape(shape), strict=True))


def _voted(
    preferences: Preferences, metric: FileMetric, progress: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _finite(metric, pairs_of(preferences.judgments), progress).reshape(2, -1)
    return a, b


def _finite(metric: FileMetric, pairs: list[tuple[Path, Path]], progress: bool) -> NDArray[np.float64]:
    distances = np.asarray(metric.distances(pairs, progress), dtype=np.float64)
    if distances.shape != (len(pairs),) or not np.isfinite(distances).all():
        raise ValueError(
            f"{metric.name} gave {distances.shape} distances, {int(np.isnan(distances).sum())} of them NaN."
        )
    return distances


def _cells(
    distances: dict[str, NDArray[np.float64]], level: float, resamples: int, seed: int
) -> dict[str, MethodScore]:
    cells: dict[str, MethodScore] = {}
    for name, values in distances.items():
        to_own = values if values.ndim == 1 else values.diagonal().copy()
        identified = None
        if values.ndim == 2:
            shares = identification_shares(torch.from_numpy(values)).numpy()
            identified = cluster_bootstrap(shares, level=level, resamples=resamples, seed=seed)
        first = next(iter(cells.values()), None)
        cells[name] = MethodScore(
            to_own,
            cluster_bootstrap(to_own, level=level, resamples=resamples, seed=seed),
            None
            if first is None
            else paired_difference(to_own, first.distances, level=level, resamples=resamples, seed=seed),
            identified,
        )
    return cells
