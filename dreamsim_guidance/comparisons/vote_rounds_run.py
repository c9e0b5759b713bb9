"""The work of `VoteRounds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.comparisons.drawn_triplets import Vector, embedded_triplets, left_chance, seen_distances
from dreamsim_guidance.comparisons.vote_rounds import VoteRounds
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table

__all__ = ["compare", "expected_votes", "simulate_rounds", "unanimous_chance"]

_COLUMNS = ("kept", "votes", "votes per kept", "agreement", "right answers", "gap", "metric")


def unanimous_chance(p: Vector, votes: int) -> Vector:
    """Return the probability that `votes` people agree, when each gives the first answer with probability `p`."""
    return p**votes + (1 - p) ** votes


def expected_votes(p: Vector, rounds: int, votes: int) -> Vector:
    """Return how many votes a triplet gets on average when it is asked in rounds until two people disagree."""
    return votes * sum((unanimous_chance(p, votes * past) for past in range(1, rounds)), np.ones_like(p))


def simulate_rounds(
    p: Vector, rounds: int, votes: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many votes each triplet gets, and how many of them are for the first answer, both `(n,)`.

    p: chance of the first answer, `(n,)`. Triplets on which two people have disagreed are not asked again.
    """
    asked = np.zeros(len(p), dtype=np.int64)
    first = np.zeros(len(p), dtype=np.int64)
    for _ in range(rounds):
        going = (first == 0) | (first == asked)
        first[going] += random.binomial(votes, p[going])
        asked[going] += votes
    return asked, first


def compare(config: VoteRounds, folder: Path) -> dict[str, Any]:
    """Carry out `VoteRounds.run`."""
    triplets, embeddings = embedded_triplets(config.triplets, 0, config.metric, folder, config.device)
    a, b = seen_distances(triplets, config.person, config.others)
    p = left_chance(a, b, config.temperature, config.lapse)
    reference, left, right = (embeddings[:, i] for i in range(3))
    metric_left = 1 - (left * reference).sum(1) < 1 - (right * reference).sum(1)
    replicates: dict[str, list[list[float]]] = {}
    for seed in range(config.seeds):
        random = np.random.default_rng([config.seed, seed])
        rows = random.integers(0, len(p), len(p))
        pool = _Pool(p[rows], np.abs(a - b)[rows], (a < b)[rows], metric_left[rows])
        spent = []
        for schedule in config.schedules:
            rounds, votes = map(int, schedule.split("x"))
            asked, first = simulate_rounds(pool.p, rounds, votes, random)
            agreed = (first == 0) | (first == asked)
            replicates.setdefault(f"rounds {schedule}", []).append(pool.measures(asked, first, agreed))
            spent.append(int(asked.sum()))
        for name, measures in _one_go(pool, int(np.median(spent)), rounds * votes, random).items():
            replicates.setdefault(name, []).append(measures)
    results = {
        name: {column: _interval(values) for column, values in zip(_COLUMNS, np.array(rows).T, strict=True)}
        for name, rows in replicates.items()
    }
    everything = {
        "agreement": float(np.maximum(p, 1 - p).mean()),
        "gap": float(np.abs(a - b).mean()),
        "metric, fraction": float(np.where(metric_left, p, 1 - p).mean()),
        "metric, majority": float((metric_left == (p > 0.5)).mean()),
    }
    closed = _closed_form(p, config)
    table = markdown_table(("design", *_COLUMNS), [[name, *map(_cell, row.values())] for name, row in results.items()])
    with writing(folder / "table.md") as temporary:
        temporary.write_text(f"{table}\n", encoding="utf-8")
    return {"designs": results, "all triplets": everything, "closed form": closed}


def _closed_form(p: Vector, config: VoteRounds) -> dict[str, float]:
    """What the rounds give on average over people, for the triplets as they are."""
    plans = {schedule: tuple(map(int, schedule.split("x"))) for schedule in config.schedules}
    rounds, votes = plans[config.schedules[0]]
    kept = float(unanimous_chance(p, rounds * votes).sum())
    cost = {f"votes per kept, {name}": float(expected_votes(p, *plan).sum()) / kept for name, plan in plans.items()}
    return {"kept": kept, "agreement": float(unanimous_chance(p, rounds * votes + 1).sum()) / kept, **cost}


class _Pool:
    """The triplets of one repetition: the chance of the first answer, the gap of the distances, whether the first candidate is
    nearer, and whether a metric finds it nearer."""

    def __init__(self, p: Vector, gap: Vector, nearer: NDArray[np.bool_], metric: NDArray[np.bool_]) -> None:
        self.p, self.gap, self.nearer, self.metric = p, gap, nearer, metric

    def measures(self, asked: NDArray[np.int64], first: NDArray[np.int64], kept: NDArray[np.bool_]) -> list[float]:
        """The figures of `_COLUMNS` for the triplets in `kept`, whose answer is that of most people."""
        answer = 2 * first[kept] > asked[kept]
        count, votes = float(kept.sum()), float(asked.sum())
        agreement = np.where(answer, self.p[kept], 1 - self.p[kept])
        right, metric = answer == self.nearer[kept], answer == self.metric[kept]
        return [
            count,
            votes,
            votes / max(count, 1),
            *(float(x.mean()) for x in (agreement, right, self.gap[kept], metric)),
        ]


def _one_go(pool: _Pool, spent: int, votes: int, random: np.random.Generator) -> dict[str, list[float]]:
    """The measures of two designs that spend as many votes at once."""
    n = len(pool.p)
    each = np.full(n, spent // n)
    each[random.permutation(n)[: spent % n]] += 1
    first = random.binomial(each, pool.p)
    ties = 2 * first == each
    broken = first + np.where(ties, random.integers(0, 2, n), 0)
    majority = pool.measures(each, broken, each > 0)
    chosen = np.zeros(n, dtype=bool)
    chosen[random.permutation(n)[: spent // votes]] = True
    asked = np.where(chosen, votes, 0)
    first = random.binomial(asked, pool.p)
    unanimous = pool.measures(asked, first, chosen & ((first == 0) | (first == votes)))
    return {"one go, majority": majority, "one go, unanimous": unanimous}


def _interval(values: Vector) -> dict[str, float]:
    """Mean over the repetitions, and the range of 95 % of them."""
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def _cell(interval: dict[str, float]) -> str:
    digits = 0 if interval["value"] >= 100 else 1 if interval["value"] >= 2 else 3
    value, low, high = (f"{interval[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
