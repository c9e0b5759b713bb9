"""The work of `ActiveChoice`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dreamsim_guidance.comparisons.active_choice import ActiveChoice
from dreamsim_guidance.comparisons.drawn_triplets import Vector, embedded_triplets, left_chance, seen_distances
from dreamsim_guidance.data.scenes.triplets import SceneTriplet
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.training.active_choice import Choice, choose_next, directions, fit_head, triplet_features

__all__ = ["compare", "votes_needed"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class _Triplets:
    """Drawn triplets and their features `(n, m)`."""

    triplets: list[SceneTriplet]
    x: Vector

    def chances(self, person: str, config: ActiveChoice) -> Vector:
        """The chance of each triplet that a person finds `a` nearer, `(n,)`."""
        seen = seen_distances(self.triplets, person, config.others)
        return left_chance(*seen, config.temperature, config.lapse)


def compare(config: ActiveChoice, folder: Path) -> dict[str, Any]:
    """Carry out `ActiveChoice.run`."""
    numbers = range(config.repetitions)
    drawn = [_drawn(config, number, folder) for number in tqdm(numbers, desc="drawing and embedding", unit="pool")]
    places = np.array(_places(config))
    results: dict[str, Any] = {}
    lines = []
    for person in config.people:
        chances = [pool.chances(person, config) for pool, _ in drawn]
        truths = [test.chances(person, config) > 0.5 for _, test in drawn]
        curves, agreed = {}, {}
        for choice in config.choices:
            runs = [
                _curve(
                    cast(Choice, choice), config, number, drawn[number][0].x, chances[number], test.x, truths[number]
                )
                for number, (_, test) in enumerate(drawn)
            ]
            curves[choice] = np.stack([curve for curve, _ in runs])
            agreed[choice] = np.array([people for _, people in runs])
        rows = {choice: _summary(curves["random"], curve, agreed[choice], places) for choice, curve in curves.items()}
        untuned = [((test.x.sum(1) > 0) == truth).mean() for (_, test), truth in zip(drawn, truths, strict=True)]
        results[person] = {
            "untuned": float(np.mean(untuned)),
            "votes": places.tolist(),
            "curves": {choice: curve.mean(0).tolist() for choice, curve in curves.items()},
            "choices": rows,
        }
        lines += [[person, choice, *(_cell(row[name]) for name in row)] for choice, row in rows.items()]
    columns = ("people", "choice", *next(iter(rows.values())))
    with writing(folder / "table.md") as temporary:
        temporary.write_text(f"{markdown_table(columns, lines)}\n", encoding="utf-8")
    return results


def _drawn(config: ActiveChoice, number: int, folder: Path) -> tuple[_Triplets, _Triplets]:
    """The pool and the held-out triplets of a repetition; the directions are those of the pool."""
    count = config.pool + config.test
    first = (config.seed * config.repetitions + number) * count
    triplets, embeddings = embedded_triplets(count, first, config.metric, folder, config.device)
    pool = embeddings[: config.pool]
    x = triplet_features(embeddings, directions(pool.reshape(-1, pool.shape[-1]), config.directions))
    return _Triplets(triplets[: config.pool], x[: config.pool]), _Triplets(triplets[config.pool :], x[config.pool :])


def _places(config: ActiveChoice) -> list[int]:
    """Numbers of votes at which heads are judged."""
    return [*range(config.start, config.votes, config.batch), config.votes]


def _curve(
    choice: Choice,
    config: ActiveChoice,
    number: int,
    x: Vector,
    chance: Vector,
    x_test: Vector,
    truth: NDArray[np.bool_],
) -> tuple[Vector, float]:
    """Agreement with most people on held-out triplets after each batch of votes, and people's own on what was chosen."""
    random = np.random.default_rng([config.seed, number])
    answers = random.random(len(x)) < chance  # the same for all ways of choosing
    asked = np.zeros(len(x), dtype=bool)
    asked[: config.start] = True
    agreement = []
    for place in _places(config):
        if place > config.start:
            votes = (asked & answers).astype(float), (asked & ~answers).astype(float)
            asked[choose_next(x, *votes, place - int(asked.sum()), choice, seed=number)] = True
        head = fit_head(x, (asked & answers).astype(float), (asked & ~answers).astype(float))
        agreement.append(float(((head.log_odds(x_test) > 0) == truth).mean()))
    asked[: config.start] = False
    return np.array(agreement), float(np.maximum(chance, 1 - chance)[asked].mean())


def _summary(random: Vector, curves: Vector, agreed: Vector, places: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """The figures of the table, with intervals over repetitions; the gain is the mean over the votes after the start."""
    generator = np.random.default_rng(0)
    draws = generator.integers(0, len(curves), (_RESAMPLES, len(curves)))

    def interval(value: float, replicates: list[float]) -> dict[str, float]:
        low, high = np.quantile(replicates, [0.025, 0.975])
        return {"value": value, "low": float(low), "high": float(high)}

    final = curves[:, -1]
    gain = (curves - random)[:, 1:].mean(1)
    needed = [votes_needed(random[rows].mean(0), curves[rows].mean(0), places) for rows in draws]
    return {
        "agreement": interval(float(final.mean()), [float(final[rows].mean()) for rows in draws]),
        "gain over random": interval(float(gain.mean()), [float(gain[rows].mean()) for rows in draws]),
        "votes needed": interval(votes_needed(random.mean(0), curves.mean(0), places), needed),
        "people agree": interval(float(agreed.mean()), [float(agreed[rows].mean()) for rows in draws]),
    }


def votes_needed(random: Vector, curve: Vector, places: NDArray[np.int64]) -> float:
    """Return at how many votes a curve first reaches the end of that of random choice, as a share of all votes.

    random, curve: agreement at the numbers of votes `places`, `(m,)`; between them it is interpolated. For a curve that does
        not reach it, 1 is returned.
    """
    goal = random[-1]
    above = np.flatnonzero(curve >= goal)
    if len(above) == 0:
        return 1.0
    i = int(above[0])
    if i == 0:
        return float(places[0] / places[-1])
    share = (goal - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float((places[i - 1] + share * (places[i] - places[i - 1])) / places[-1])


def _cell(interval: dict[str, float]) -> str:
    value, low, high = (100 * interval[name] for name in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
