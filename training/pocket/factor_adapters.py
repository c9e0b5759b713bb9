"""Training of small adapters of the pocket ensemble that each see one factor of a scene and ignore the others.

In a batch of scenes with independent factors, scene j is to be nearer to scene i than scene k is wherever it is nearer in the
chosen factor f alone:

    minimise  mean over i, j, k with f_ij < f_ik - margin of  log(1 + exp((d_ij - d_ik) / (temperature d)))

where d is the mean distance of the batch: without it, an adapter whose factor is hard to see makes all pictures alike.
Pairs that share the factor differ in everything else, so that the other factors are noise, which the adapter learns to ignore.
The base stays frozen, and one base serves all adapters, chosen for each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dreamsim_guidance.data.scenes.factors import FactorTable
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes, drawn
from dreamsim_guidance.data.scenes.scene import FACTORS, Scene, sample_scene, scene_generator
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.training.fit import Learner, fit
from dreamsim_guidance.training.pocket.settings import TrainFactorAdapters
from dreamsim_guidance.training.pocket.training_log import line_writer

__all__ = ["FactorLearner", "factor_agreements", "mixed_scenes", "train_factor_adapters", "triplet_loss"]

_SIZE = 64


def train_factor_adapters(settings: TrainFactorAdapters, folder: Path) -> dict[str, Any]:
    """Carry out `TrainFactorAdapters.run`."""
    if unknown := [name for name in settings.factors if name not in FACTORS]:
        raise ValueError(f"unknown factor '{unknown[0]}'; known: {', '.join(FACTORS)}.")
    scenes, pictures = mixed_scenes(settings.scenes, "train")
    for factor in settings.factors:
        if not (folder / "adapters" / factor / "adapter_config.json").is_file():
            count = settings.scenes // 2 if factor in settings.easy else settings.scenes
            _train(settings, factor, scenes[:count], pictures[:count], folder)
    metric = DreamSim("pocket", baseline=True, fold=False)
    for factor in settings.factors:
        metric.load_adapter(folder / "adapters" / factor, factor)
    held_out, views = mixed_scenes(settings.held_out, "test")
    table = FactorTable(held_out).by_factor(torch.arange(len(held_out)))
    shown = {name: table[name] for name in settings.factors}
    results = {
        name or "untuned": factor_agreements(_directions(metric, views, [name]), shown, settings.margin)
        for name in (None, *settings.factors)
    }
    results["people"] = factor_agreements(_directions(DreamSim("pocket"), views), shown, settings.margin)
    rows = [
        [name, *(f"{100 * x.value:.1f} [{100 * x.low:.1f}, {100 * x.high:.1f}]" for x in agreements.values())]
        for name, agreements in results.items()
    ]
    with writing(folder / "table.md") as temporary:
        table_text = markdown_table(["adapter", *settings.factors], rows)
        temporary.write_text(f"{table_text}\n", encoding="utf-8")
    return {name: {f: asdict(x) for f, x in agreements.items()} for name, agreements in results.items()}


def _train(settings: TrainFactorAdapters, factor: str, scenes: Sequence[Scene], pictures: Tensor, folder: Path) -> None:
    torch.manual_seed(settings.seed)
    metric = DreamSim("pocket", baseline=True, fold=False)
    metric.attach_adapter(settings.rank, settings.alpha, 0.0, factor, settings.targets)
    learner = FactorLearner(metric, factor, scenes, pictures, settings)
    sizes = (len(scenes), settings.rank, settings.alpha, settings.targets, settings.batch)
    fit(
        learner,
        settings.schedule,
        settings.seed,
        folder / f"{factor}.pt",
        factor,
        line_writer(folder / "training.txt"),
        made_of=f"{factor} {sizes} {settings.temperature} {settings.margin}",
    )
    metric.save_adapter(folder / "adapters" / factor, factor)


class FactorLearner(Learner):
    """A metric whose active adapter learns one factor of the given scenes."""

    def __init__(
        self,
        metric: DreamSim,
        factor: str,
        scenes: Sequence[Scene],
        pictures: UInt8[Tensor, "n 3 h w"],
        settings: TrainFactorAdapters,
    ) -> None:
        super().__init__()
        self.metric, self.factor, self.pictures, self.settings = metric, factor, pictures, settings
        self.factors = FactorTable(scenes)

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        chosen = torch.randint(len(self.pictures), (self.settings.batch,), generator=generator)
        directions = self.metric.directions(self.pictures[chosen].float() / 255)
        factor = self.factors.by_factor(chosen)[self.factor]
        return triplet_loss(1 - directions @ directions.T, factor, self.settings.margin, self.settings.temperature)


def triplet_loss(
    distances: Float[Tensor, "b b"], factor: Float[Tensor, "b b"], margin: float, temperature: float
) -> Float[Tensor, ""]:
    """The loss above over all triplets of a batch, from the metric's distances and those of the factor."""
    others = ~torch.eye(len(factor), dtype=torch.bool)
    wrong = (distances[:, :, None] - distances[:, None, :]) / (temperature * distances[others].mean())
    ordered = factor[:, :, None] < factor[:, None, :] - margin
    return F.softplus(wrong)[ordered & others[:, :, None]].mean()


def factor_agreements(
    directions: Float[Tensor, "n d"], factors: dict[str, Float[Tensor, "n n"]], margin: float
) -> dict[str, Interval]:
    """The share of triplets whose order by distance is that of each factor, with its interval by reference."""
    distances = 1 - directions @ directions.T
    agreements = {}
    for name, factor in factors.items():
        shares = []
        for i in range(len(distances)):
            others = torch.arange(len(distances)) != i
            d, f = distances[i, others], factor[i, others]
            right = (d[:, None] < d[None])[f[:, None] < f[None] - margin]
            shares.append(float(right.double().mean()))  # NaN for a reference without triplets
        agreements[name] = cluster_bootstrap(shares)
    return agreements


def mixed_scenes(count: int, split: str) -> tuple[list[Scene], UInt8[Tensor, "n 3 h w"]]:
    """Scenes of a split, the first half easy ones, and their pictures of 64 x 64 pixels in 8 bits."""
    easy, pictures = draw_pocket_scenes(count // 2, _SIZE, split)
    full = [sample_scene(scene_generator(count + i, split)) for i in range(count - count // 2)]
    return easy + full, torch.cat([pictures, drawn(full, _SIZE)])


@torch.no_grad()
def _directions(metric: DreamSim, pictures: Tensor, adapters: Sequence[str | None] | None = None) -> Tensor:
    return torch.cat([metric.directions(batch.float() / 255, adapters=adapters) for batch in pictures.split(64)])
