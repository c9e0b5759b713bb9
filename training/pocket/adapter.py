"""The pocket ensemble's adapter: tuned on drawn triplets as DreamSim was on NIGHTS, and judged before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.data.scenes.scene_set import write_scene_set
from dreamsim_guidance.evaluation.judging import evaluate
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.metrics.named_metrics import load_metrics
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.processes import alone, is_main
from dreamsim_guidance.training.tuning import Tuning

__all__ = ["TunePocket"]


@dataclass(frozen=True)
class TunePocket:
    """Draw triplets, tune, and compare with the un-tuned ensemble and with pixels on scenes that were never seen."""

    tuning: Tuning
    """Its `data` is where the triplets are; what is missing there is drawn."""
    triplets: int
    seed: int
    """Of the triplets."""
    workers: int = 2
    """Processes that draw."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Leaves what `Tuning.run` leaves; returns its figures, and agreement before and after on two test splits.

        "test" has new scenes; in "test_held_out" factors decide that no training triplet varies.
        """
        if is_main():
            write_scene_set(self.tuning.data, self.triplets, self.seed, workers=self.workers)
        found: dict[str, Any] = {"training": self.tuning.run(folder)}
        if not is_main():
            return found
        before = DreamSim("pocket", baseline=True)
        metrics = {
            "before": EmbeddingMetric("before", before),
            "after": EmbeddingMetric("after", DreamSim(folder / "model.safetensors")),
            **load_metrics(["mse"]),
        }
        for split in ("test", "test_held_out"):
            with alone():
                report = evaluate(read_nights(self.tuning.data, split), metrics, ["majority"]).report
            agreement = {name: asdict(rules["majority"]) for name, rules in report.agreement.items()}
            found[split] = {**agreement, "gain": asdict(report.lead["after"]["majority"])}
        return found
