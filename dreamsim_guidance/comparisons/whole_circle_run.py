"""The work of `WholeCircle`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreamsim_guidance.comparisons.drawn_triplets import left_chance
from dreamsim_guidance.comparisons.whole_circle import WholeCircle
from dreamsim_guidance.data.triplet_folder import SHARES, TripletRow, read_triplet_rows
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.samples.scene_judge import JUDGED, load_judge
from dreamsim_guidance.evaluation.statistics.agreement import credits
from dreamsim_guidance.evaluation.statistics.intervals import Interval, resample_means
from dreamsim_guidance.files.atomic import write_text
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.generation.generating import generate
from dreamsim_guidance.generation.plan import Plan, PlannedModel, Way
from dreamsim_guidance.generation.plan_file import read_plan
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image
from dreamsim_guidance.study.round_rule import Round
from dreamsim_guidance.study.rounds import make_round, next_round
from dreamsim_guidance.study.simulated_votes import chance_of_left, simulate_votes
from dreamsim_guidance.training.base_models import base_metric

__all__ = ["circle"]

Vector = NDArray[np.float64]


def circle(config: WholeCircle, folder: Path) -> dict[str, Any]:
    """Carry out `WholeCircle.run`."""
    triplets, judged = folder / "triplets", folder / "judged"
    generate(_plan(config), triplets, config.device)
    rows = read_triplet_rows(triplets)
    chances = _chances(config, triplets, rows)
    cost = _ask(config, folder, chances)
    tuned = replace(config.tuning, data=judged).run(folder / "tuned")
    tuning = config.tuning
    metrics = {
        "before": base_metric(tuning.model, tuning.weights, tuning.pretrained, tuning.normalize_embeds),
        "after": DreamSim(folder / "tuned" / "model.safetensors"),
    }
    kept = {row.id: row for row in read_triplet_rows(judged)}
    held_out = [row for row in rows if row.split == "test"]
    groups = {
        "all held-out triplets": held_out,
        **{
            f"of these, by {way}": [row for row in held_out if row.way == way]
            for way in dict.fromkeys(row.way for row in rows)
        },
        "held-out triplets that were kept": [row for row in held_out if row.id in kept],
    }
    agreement = {
        name: _agreement(part, metrics, triplets, chances, config.seed) for name, part in groups.items() if part
    }
    header = ["held out", "triplets", "before", "after", "gain", "people"]
    lines = [
        [
            name,
            str(row["before"].count),
            *(_percent(row[key], key == "gain") for key in ("before", "after", "gain")),
            f"{100 * row['people']:.1f}",
        ]
        for name, row in agreement.items()
    ]
    write_text(folder / "table.md", f"{markdown_table(header, lines)}\n")
    return {
        "agreement": {
            name: {key: asdict(value) if isinstance(value, Interval) else value for key, value in row.items()}
            for name, row in agreement.items()
        },
        "triplets": dict(Counter(row.way for row in rows)),
        "kept": dict(Counter(row.way for row in kept.values())),
        "kept_splits": dict(Counter(row.split for row in kept.values())),
        **cost,
        "training": tuned,
    }


def _plan(config: WholeCircle) -> Plan:
    pocket = read_plan("pocket")
    ways = [Way("seed", config.count)]
    if config.guide:
        ways.append(Way("guide", config.count, tuple((distance, distance) for distance in config.guide), attempts=1))
    return replace(
        pocket,
        models=(PlannedModel("pocket", steps=config.steps),),
        ways=tuple(ways),
        seed=config.seed,
        shares=dict(zip(SHARES, config.shares, strict=True)),
    )


def _chances(config: WholeCircle, folder: Path, rows: Sequence[TripletRow]) -> dict[str, float]:
    """By the id of each triplet, the probability that a person finds its left picture nearer."""
    if unknown := [name for name in config.factors if name not in JUDGED]:
        raise ValueError(f"unknown factor '{unknown[0]}'; the judge of scenes reads {', '.join(JUDGED)}.")
    judge = load_judge()
    files = list(dict.fromkeys(file for row in rows for file in (row.reference, row.left, row.right)))
    with torch.no_grad():
        answers = [
            judge(torch.cat([load_image(folder / file) for file in files[i : i + 64]]))
            for i in range(0, len(files), 64)
        ]
    read = {
        name: torch.cat([answer[name] for answer in answers]).softmax(1).double().numpy() for name in config.factors
    }
    place = {file: i for i, file in enumerate(files)}

    def distances(side: str) -> Vector:
        first = [place[row.reference] for row in rows]
        second = [place[getattr(row, side)] for row in rows]
        parts = [
            w * np.abs(read[f][first] - read[f][second]).sum(1) / 2
            for f, w in zip(config.factors, config.weights, strict=True)
        ]
        return np.asarray(np.sum(parts, 0) / sum(config.weights), dtype=np.float64)

    chance = left_chance(distances("left"), distances("right"), config.temperature, config.lapse)
    return {row.id: float(p) for row, p in zip(rows, chance, strict=True)}


def _ask(config: WholeCircle, folder: Path, chances: Mapping[str, float]) -> dict[str, Any]:
    """Carry out the rounds through the study's files, and write the set of unanimous votes; return what it cost."""
    study = folder / "round-1"
    if not study.is_dir():
        rule = Round(rounds=config.rounds, votes=config.votes, least_votes=config.rounds * config.votes)
        make_round(folder / "triplets", study, participants=config.people, rule=rule, seed=config.seed, progress=False)
    votes = 0
    for number in range(1, config.rounds + 1):
        answers = folder / f"votes-{number}"
        simulate_votes(study, answers, chance_of_left(chances), lapse=config.lapse, seed=config.seed + number)
        to = folder / ("judged" if number == config.rounds else f"round-{number + 1}")
        result = next_round(study, [answers], to, progress=False)
        votes += result.past.votes
        study = to
        if result.kept is not None:
            return {"votes": votes, "kept_triplets": result.kept, "votes_per_kept": votes / max(result.kept, 1)}
        if result.made is None:
            break
    raise ValueError("people disagreed on every triplet; use a smaller temperature or more triplets.")


def _agreement(
    rows: Sequence[TripletRow], metrics: Mapping[str, DreamSim], folder: Path, chances: Mapping[str, float], seed: int
) -> dict[str, Any]:
    """Mean credit of each metric with its interval, the gain, and the most that any metric can reach."""
    pairs = [(folder / row.reference, folder / side) for row in rows for side in (row.left, row.right)]
    p = np.array([chances[row.id] for row in rows])
    columns = []
    for name, metric in metrics.items():
        distances = EmbeddingMetric(name, metric).distances(pairs, progress=False).reshape(-1, 2)
        columns.append(credits(distances[:, 0], distances[:, 1], p, 1 - p))
    means = resample_means(np.stack(columns), np.array([row.reference for row in rows]), seed=seed)
    return {
        "before": means.interval(0),
        "after": means.interval(1),
        "gain": means.lead(1, 0),
        "people": float(np.maximum(p, 1 - p).mean()),
    }


def _percent(interval: Interval, signed: bool) -> str:
    value, low, high = (100 * number for number in (interval.value, interval.low, interval.high))
    return f"{value:{'+' if signed else ''}.1f} [{low:.1f}, {high:.1f}]"
