"""Which methods of reconstruction people prefer, from the votes that `study read` wrote.

win rate   the share of the votes on a method's pictures that it won; depends on the opponents it was shown with
strength   of the Bradley-Terry model, in log-odds with mean zero; accounts for the opponents. A method whose strength is
           larger by 1 is preferred with probability 1 / (1 + exp(-1)) = 0.73

Intervals resample whole references, as for agreement. All methods share the resamples, so that a difference between two
methods is known more precisely than either.
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
    """Judgments, and which methods made a and b: positions in `methods`, each `(n,)`."""

    judgments: Judgments
    methods: tuple[str, ...]
    a: NDArray[np.int64]
    b: NDArray[np.int64]


@dataclass(frozen=True)
class Standing:
    """What people think of one method. `lead` is the difference of its strength to the first method's, None for that one."""

    votes: int
    win_rate: Interval
    strength: Interval
    lead: Interval | None


def read_preferences(folder: Path | str) -> Preferences:
    """Read the votes in a folder that `study read` wrote: NIGHTS' layout with the columns left_method and right_method.

    Raises the errors of `read_nights`, and ValueError if those columns are missing or the study is not of mode 2afc.
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
    a, b = np.array([[place[left], place[right]] for left, right in pairs], dtype=np.int64).T
    return Preferences(judgments, methods, a, b)


def standings(
    preferences: Preferences, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, Standing]:
    """Return the win rate and strength of each method, in their order, with intervals clustered by reference."""
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
    """Win rates of the methods; NaN for a method without a vote, as a resample may leave it."""
    met = wins.sum(1) + wins.sum(0)
    return np.divide(wins.sum(1), met, out=np.full(len(wins), np.nan), where=met > 0)
