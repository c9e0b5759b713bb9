"""Tuning of the pocket ensemble on drawn triplets, as DreamSim was tuned on NIGHTS, with its agreement before and after."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.data.scenes.scene_set import write_scene_set
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.metrics.named_metrics import load_metrics
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import alone, is_main
from dreamsim_guidance.training.pocket.settings import TunePocket

__all__ = ["tune_pocket"]


def tune_pocket(settings: TunePocket, folder: Path) -> dict[str, Any]:
    """Carry out `TunePocket.run`."""
    (scenes,) = settings.tuning.sets
    if is_main():
        write_scene_set(scenes, settings.triplets, settings.seed, workers=settings.workers)
    results: dict[str, Any] = {"training": settings.tuning.run(folder)}
    if not is_main():
        return results
    before = DreamSim("pocket", baseline=True)
    metrics = {
        "before": EmbeddingMetric("before", before),
        "after": EmbeddingMetric("after", DreamSim(folder / "model.safetensors")),
        **load_metrics(["mse"]),
    }
    for split in ("test", "test_held_out"):
        with alone():
            report = evaluate(read_nights(scenes, split), metrics, ["majority"]).report
        agreement = {name: asdict(rules["majority"]) for name, rules in report.agreement.items()}
        results[split] = {**agreement, "gain": asdict(report.lead["after"]["majority"])}
    if settings.attacks:
        judgments = read_nights(scenes, "test").sample(settings.attacked, settings.seed)
        compared = {"pocket": EmbeddingMetric("pocket", DreamSim("pocket")), "after": metrics["after"]}
        with alone():
            robustness = evaluate(judgments, compared, ["majority"], attacks=settings.attacks).report.robustness
        assert robustness is not None
        results["under attack"] = {
            name: {attack: asdict(row["majority"]) for attack, row in rows.items()}
            for name, rows in robustness.agreement.items()
        }
    return results
