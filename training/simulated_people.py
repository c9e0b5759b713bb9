"""A study of drawn scenes, answered by simulated people who each look at one factor above all, and a metric for each of them.

It shows what tuning to a person can do where the truth is known: person f finds a nearer to the reference than b with
probability 1 / (1 + exp((d_a - d_b) / temperature)), where d is the distance in the person's factor plus a small weight times
the mean distance in all factors, which decides where the person's factor does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.data.scenes.scene import FACTORS, Scene, factor_distances, scene_generator
from dreamsim_guidance.data.scenes.variations import vary
from dreamsim_guidance.files.atomic import new_folder, writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.study.design import Trial
from dreamsim_guidance.study.exporter import make_study
from dreamsim_guidance.study.record import read_record
from dreamsim_guidance.study.simulated_votes import simulate_votes
from dreamsim_guidance.training.personal import SimulatedPeople
from dreamsim_guidance.training.personal_run import held_out_agreement, percent, untuned

__all__ = ["tune_simulated_people"]

_VARIATIONS = ("a", "b", "c", "d")
"""The methods of the study, whose names say nothing."""
_FIRST = 2_000_000
"""Scenes from this number on took no part in any training of the pocket models."""
_SIZE = 64


def tune_simulated_people(settings: SimulatedPeople, folder: Path) -> dict[str, Any]:
    """Carry out `SimulatedPeople.run`."""
    if unknown := [name for name in settings.people if name not in FACTORS]:
        raise ValueError(f"unknown factor '{unknown[0]}'; known: {', '.join(FACTORS)}.")
    scenes = _scenes(settings)
    if not (folder / "study").is_dir():
        _write_pictures(scenes, folder / "pictures")
        make_study(
            folder / "pictures" / "targets",
            [folder / "pictures" / name for name in _VARIATIONS],
            folder / "study",
            participants=len(settings.people),
            trials=settings.trials,
            seed=settings.seed,
        )
    study = read_record(folder / "study")
    results: dict[str, Any] = {"training": {}}
    for number, person in enumerate(settings.people, 1):
        simulate_votes(
            study,
            folder / "votes",
            _finds_left(person, scenes, settings),
            participants=[number],
            seed=settings.seed,
            sessions={number: person},
        )
        personal = replace(settings.personal, study=folder / "study", votes=(folder / "votes",), person=person)
        results["training"][person] = personal.run(folder / person)
    metrics = {"untuned": untuned(settings.personal)}
    metrics |= {person: DreamSim(folder / person / "model.safetensors") for person in settings.people}
    votes_of = {p: held_out_agreement(folder / p / "judgments", metrics)[0] for p in settings.people}
    table = {name: {person: votes_of[person][name] for person in settings.people} for name in metrics}
    header = ["tuned to", *(f"votes by {person}" for person in settings.people)]
    rows = [[name, *(percent(interval) for interval in row.values())] for name, row in table.items()]
    with writing(folder / "table.md") as temporary:
        temporary.write_text(f"{markdown_table(header, rows)}\n", encoding="utf-8")
    results["held out"] = {name: {p: asdict(x) for p, x in row.items()} for name, row in table.items()}
    return results


def _scenes(settings: SimulatedPeople) -> list[tuple[Scene, dict[str, Scene]]]:
    """References and their variations; a random half of the people's factors, and of two others, is changed in each."""
    factors = [*settings.people, *(name for name in ("background", "count") if name not in settings.people)]
    scenes = []
    for number in range(settings.references):
        generator = scene_generator(_FIRST + 1000 * settings.seed + number, "test")
        reference = pocket_scene(_FIRST + 1000 * settings.seed + number, "test")
        variations = {}
        for name in _VARIATIONS:
            changed = [f for f in factors if torch.rand((), generator=generator) < 0.5]
            amount = 0.3 + 0.7 * float(torch.rand((), generator=generator))
            variations[name] = vary(reference, changed, amount, generator)
        scenes.append((reference, variations))
    return scenes


def _write_pictures(scenes: Sequence[tuple[Scene, dict[str, Scene]]], folder: Path) -> None:
    with new_folder(folder) as part:
        for number, (reference, variations) in enumerate(scenes):
            for name, scene in {"targets": reference, **variations}.items():
                save_image(draw(scene, _SIZE), part / name / f"{number:04}.png")


def _finds_left(
    person: str, scenes: Sequence[tuple[Scene, dict[str, Scene]]], settings: SimulatedPeople
) -> Callable[[Trial], float]:
    """The probability that a person chooses the left picture of a trial, as `simulate_votes` takes it."""

    def chance(trial: Trial) -> float:
        reference, variations = scenes[int(trial.reference)]
        left, right = (
            seen[person] + settings.others * sum(seen.values()) / len(seen)
            for seen in (factor_distances(reference, variations[side]) for side in (trial.left, trial.right))
        )
        return 0.5 + 0.5 * math.tanh(0.5 * (right - left) / settings.temperature)

    return chance
