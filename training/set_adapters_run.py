"""The work of tuning one base to several sets: a run of `Tuning` for each, then all adapters judged on every set."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dreamsim_guidance.data.readers.sets import read_judgments
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.training.base_models import base_metric
from dreamsim_guidance.training.personal_run import percent
from dreamsim_guidance.training.set_adapters import SetAdapters

__all__ = ["train_set_adapters"]


def train_set_adapters(settings: SetAdapters, folder: Path) -> dict[str, Any]:
    """Carry out `SetAdapters.run`."""
    results: dict[str, Any] = {"training": {}}
    names = [place.name for place in settings.sets]
    for name, place in zip(names, settings.sets, strict=True):
        results["training"][name] = replace(settings.tuning, data=place).run(folder / name)
    tuning = settings.tuning
    metric = base_metric(tuning.scratch or tuning.model, tuning.weights, tuning.pretrained, tuning.normalize_embeds)
    for name in names:
        metric.load_adapter(folder / name / "adapter", name)
    table: dict[str, dict[str, Interval]] = {}
    for adapter in (None, *names):
        metric.set_adapter(adapter)
        row = table[adapter or "untuned"] = {}
        for name, place in zip(names, settings.sets, strict=True):
            judgments = read_judgments(place, tuning.kind, tuning.val_split, tuning.least_votes)
            report = evaluate(judgments, {name: EmbeddingMetric(name, metric)}, ["majority"], progress=False).report
            row[name] = report.agreement[name]["majority"]
    rows = [[adapter, *(percent(interval) for interval in row.values())] for adapter, row in table.items()]
    with writing(folder / "table.md") as temporary:
        text = markdown_table(["adapter", *names], rows)
        temporary.write_text(f"{text}\n", encoding="utf-8")
    results["agreement"] = {a: {name: asdict(x) for name, x in row.items()} for a, row in table.items()}
    return results
