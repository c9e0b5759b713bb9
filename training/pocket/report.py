"""How well distances order held-out triplets of scenes: an ensemble, its branches alone, MSE and SSIM."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.triplets import Agreement, Triplet, agreement, draw_triplets, sample_triplets
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.preprocess import save_image, to_image
from dreamsim_guidance.types import Distance, Embedding, Image

__all__ = ["branch_agreement", "cosine_distance", "draw_training", "report", "ssim_distance"]


def report(ensemble: Ensemble, count: int) -> dict[str, Any]:
    """Agreement with the factors on `count` triplets of the split "test", with 95 % intervals, by measure."""
    triplets = sample_triplets(count, "test")
    reference, a, b = draw_triplets(triplets)
    answers = _answers(triplets)
    features = [
        torch.cat([_features(branch, images) for branch in ensemble.branches], 1) for images in (reference, a, b)
    ]
    widths = [_features(branch, reference[:1]).shape[1] for branch in ensemble.branches]
    found = {"ensemble": _by_features(features, answers)}
    splits = zip(*(f.split(widths, dim=1) for f in features), strict=True)
    for config, parts in zip(ensemble.configs, splits, strict=True):
        found[config.name] = _by_features(list(parts), answers)
    for name, distance in (("mse", _mse_distance), ("ssim", ssim_distance)):
        found[name] = agreement(distance(reference, a), distance(reference, b), answers)
    return {"triplets": count, "agreement": {name: dataclasses.asdict(value) for name, value in found.items()}}


def branch_agreement(branch: Branch, count: int) -> float:
    """Agreement of one branch on `count` triplets of the split "val"."""
    triplets, pictures = _validation(count)
    return _by_features([_features(branch, images) for images in pictures], _answers(triplets)).share


def draw_training(log: Path, picture: Path) -> None:
    """Loss and agreement of every branch over its steps, read from the lines of `training.txt`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found: dict[str, dict[str, dict[int, float]]] = {"loss": {}, "agreement": {}}
    for line in log.read_text(encoding="utf-8").splitlines():
        name, _, step, what, value, *_ = line.split()
        found[what].setdefault(name, {})[int(step)] = float(value)  # a resumed run writes some steps again
    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axis, (what, curves) in zip(figure.subplots(1, 2), found.items(), strict=True):
        for name, curve in sorted(curves.items()):
            axis.plot(*zip(*sorted(curve.items()), strict=True), label=name)
        axis.set_xlabel("step")
        axis.set_title(what if what == "loss" else "agreement on scenes for validation")
        axis.legend(fontsize=8)
    canvas.draw()
    save_image(to_image(np.asarray(canvas.buffer_rgba())), picture)


def cosine_distance(x: Embedding, y: Embedding) -> Distance:
    """The metric's distance: embeddings centred over their dimensions, made unit length, half their chord squared."""
    x, y = (F.normalize(v - v.mean(1, keepdim=True), dim=1) for v in (x, y))
    return 0.5 * (x - y).square().sum(1)


def ssim_distance(x: Image, y: Image) -> Distance:
    """One minus the structural similarity, window 11."""
    from kornia.metrics import ssim

    return 1 - ssim(x, y, 11).mean((1, 2, 3))


@lru_cache(maxsize=1)
def _validation(count: int) -> tuple[list[Triplet], tuple[Image, Image, Image]]:
    triplets = sample_triplets(count, "val")
    return triplets, draw_triplets(triplets)


def _mse_distance(x: Image, y: Image) -> Distance:
    return (x - y).square().mean((1, 2, 3))


def _by_features(features: list[Tensor], answers: Tensor) -> Agreement:
    reference, a, b = features
    return agreement(cosine_distance(reference, a), cosine_distance(reference, b), answers)


def _answers(triplets: list[Triplet]) -> Tensor:
    return torch.tensor([triplet.b_is_nearer for triplet in triplets])


def _features(model: nn.Module | Callable[[Tensor], Tensor], images: Image, batch: int = 128) -> Embedding:
    with torch.no_grad():
        return torch.cat([model(part) for part in images.split(batch)])
