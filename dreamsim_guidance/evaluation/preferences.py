"""What people preferred among methods of reconstruction, from the votes that `study read` has written.

win rate   share of all votes on a method's pictures that were for it; whom it met matters
strength   Bradley and Terry's, in log-odds with mean zero, which allows for whom it met: a method one above another is
           preferred with probability 1 / (1 + 1 / e) = 0.73

Intervals draw whole references with replacement, as those of agreement; all methods in the same draws, so that the
difference of two is surer than either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.data.readers.table import read_table
from dreamsim_guidance.evaluation.statistics.bradley_terry import bradley_terry
from dreamsim_guidance.evaluation.statistics.intervals import Interval, Resampled, draws

__all__ = ["Preferences", "Standing", "read_preferences", "standings"]


@dataclass(frozen=True)
class Preferences:
    """Judgments with the methods `(n,)` that made a and b, as positions among `methods`."""

    judgments: Judgments
    methods: tuple[str, ...]
    a: NDArray[np.int64]
    b: NDArray[np.int64]


@dataclass(frozen=True)
class Standing:
    """One method among people. `lead` is its strength over the first method's, None for that one."""

    votes: int
    win_rate: Interval
    strength: Interval
    lead: Interval | None


def read_preferences(folder: Path | str) -> Preferences:
    """The votes in a folder that `study read` has written, 2AFC: NIGHTS' layout with left_method and right_method.

    Raises FileNotFoundError and ValueError as `read_nights`, and ValueError without those columns.
    """
    folder = Path(folder)
    if (folder / "jnd_votes.csv").is_file() and not (folder / "data.csv").is_file():
        raise ValueError(f"'{folder}' holds votes on same or different; preferences need a study of mode 2afc.")
    judgments = read_nights(folder)
    file = folder / "data.csv" if folder.is_dir() else folder
    pairs = [(row["left_method"], row["right_method"]) for _, row in read_table(file, ("left_method", "right_method"))]
    if len(pairs) != len(judgments):
        raise ValueError(f"'{file}' has {len(pairs)} rows, of which {len(judgments)} can be used; write it anew.")
    methods = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    place = {name: i for i, name in enumerate(methods)}
    a, b = np.array([[place[one], place[other]] for one, other in pairs], dtype=np.int64).T
    return Preferences(judgments, methods, a, b)


def standings(
    preferences: Preferences, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Standing]:
    """Win rate and strength of each method, first to last; intervals clustered by reference."""
    wins = _wins(preferences)
    counted = wins.sum(0)
    rates, strengths = [], []
    if len(wins) > 1:
        for times in draws(len(wins), resamples, seed):
            for drawn in np.einsum("rg,gij->rij", times, wins):
                rates.append(_rates(drawn))
                strengths.append(bradley_terry(drawn))
    empty = np.empty((0, len(preferences.methods)))
    votes = counted.sum(1) + counted.sum(0)
    results = {}
    for i, name in enumerate(preferences.methods):
        number = round(float(votes[i]))
        rate = Resampled(_rates(counted), np.array(rates) if rates else empty, number, len(wins))
        strength = Resampled(bradley_terry(counted), np.array(strengths) if strengths else empty, number, len(wins))
        lead = strength.lead(i, 0, level) if i else None
        results[name] = Standing(number, rate.interval(i, level), strength.interval(i, level), lead)
    return results


def _wins(preferences: Preferences) -> NDArray[np.float64]:
    """`wins[g, i, j]`: votes for method i over method j on reference g."""
    judgments, count = preferences.judgments, len(preferences.methods)
    references, group = np.unique(judgments.reference, return_inverse=True)
    wins = np.zeros((len(references), count, count))
    np.add.at(wins, (group, preferences.a, preferences.b), judgments.votes_a)
    np.add.at(wins, (group, preferences.b, preferences.a), judgments.votes_b)
    return wins


def _rates(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN for a method without a vote, as a resample may have it."""
    met = wins.sum(1) + wins.sum(0)
    return np.divide(wins.sum(1), met, out=np.full(len(wins), np.nan), where=met > 0)
