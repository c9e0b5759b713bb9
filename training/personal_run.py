"""The work of tuning to a person: write the votes as judgments, divide them by reference, tune, and judge on held-out votes."""

from __future__ import annotations

import csv
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.files.atomic import new_folder, writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.study.reader import count_votes, write_outcome
from dreamsim_guidance.training.base_models import base_metric
from dreamsim_guidance.training.personal import PersonalTuning

__all__ = ["divide", "held_out_agreement", "percent", "tune_personal", "untuned"]

_LEAST = 8
"""References below which a division into three parts says nothing."""


def tune_personal(settings: PersonalTuning, folder: Path) -> dict[str, Any]:
    """Carry out `PersonalTuning.run`."""
    judgments = folder / "judgments"
    if not judgments.is_dir():
        with new_folder(judgments) as part:
            _write_votes(settings, part)
            divide(part / "data.csv", settings.validation, settings.held_out, settings.seed)
    training = replace(settings.tuning, data=judgments).run(folder)
    metrics = {"before": untuned(settings), "after": DreamSim(folder / "model.safetensors")}
    agreement, gain = held_out_agreement(judgments, metrics)
    rows = [["before", percent(agreement["before"])], ["after", percent(agreement["after"])]]
    rows.append(["difference", percent(gain["after"], signed=True)])
    with writing(folder / "table.md") as temporary:
        table = markdown_table(["", "agreement with held-out votes, %"], rows)
        temporary.write_text(f"{table}\n", encoding="utf-8")
    return {
        "held out": {name: asdict(interval) for name, interval in agreement.items()},
        "gain": asdict(gain["after"]),
        "training": training,
    }


def untuned(settings: PersonalTuning) -> DreamSim:
    """The metric before tuning."""
    tuning = settings.tuning
    return base_metric(tuning.scratch or tuning.model, tuning.weights, tuning.pretrained, tuning.normalize_embeds)


def held_out_agreement(
    judgments: Path, metrics: dict[str, DreamSim]
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Agreement with the majority in the split "test", and each further metric's lead over the first; both by name."""
    named = {name: EmbeddingMetric(name, metric) for name, metric in metrics.items()}
    report = evaluate(read_nights(judgments, "test"), named, ["majority"], progress=False).report
    return (
        {name: rules["majority"] for name, rules in report.agreement.items()},
        {name: rules["majority"] for name, rules in report.lead.items()},
    )


def percent(interval: Interval, signed: bool = False) -> str:
    """An interval in percent: "71.2 [65.0, 77.1]"."""
    value, low, high = (100 * number for number in (interval.value, interval.low, interval.high))
    return f"{value:{'+' if signed else ''}.1f} [{low:.1f}, {high:.1f}]"


def divide(table: Path, validation: float, held_out: float, seed: int) -> None:
    """Rewrite the column "split" of judgments: "train", "val" or "test", all triplets of a reference in one of them."""
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    references = sorted({row["ref_path"] for row in lines})
    if len(references) < _LEAST:
        raise ValueError(
            f"the votes are about {len(references)} references, and at least {_LEAST} are needed to hold some out."
        )
    order = np.random.default_rng(seed).permutation(len(references))
    test = max(1, round(held_out * len(references)))
    val = max(1, round(validation * len(references)))
    split = {references[i]: "test" if n < test else "val" if n < test + val else "train" for n, i in enumerate(order)}
    with writing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "split": split[row["ref_path"]]} for row in lines)


def _write_votes(settings: PersonalTuning, to: Path) -> None:
    """Write data.csv and the pictures of the votes that count into the folder `to`."""
    if settings.votes:
        outcome = count_votes(settings.study, settings.votes, person=settings.person)
        if outcome.study.mode != "2afc":
            raise ValueError(
                f"the study '{outcome.study.title}' asks for {outcome.study.mode}; 2afc is needed to tune."
            )
        write_outcome(outcome, settings.study, to)
    else:
        if not (settings.study / "data.csv").is_file():
            raise FileNotFoundError(
                f"'{settings.study}' has no data.csv; give the folder that `study read` wrote, or files of votes as well."
            )
        shutil.copytree(settings.study, to, dirs_exist_ok=True)
