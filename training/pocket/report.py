"""Agreement of distances with the factors on held-out triplets of scenes: an ensemble, its branches alone, MSE and SSIM."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.triplets import Agreement, SceneTriplet, agreement, draw_triplets, sample_triplets
from dreamsim_guidance.evaluation.metrics.pixel_differences import mse
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.distance import half_chord, unit
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.types import Distance, Embedding, Image

__all__ = ["branch_agreement", "report"]


def report(ensemble: Ensemble, count: int) -> dict[str, Any]:
    """Agreement of each distance with the factors, with its 95 % interval, on `count` triplets of the split "test"."""
    triplets = sample_triplets(count, "test")
    reference, a, b = draw_triplets(triplets)
    answers = _answers(triplets)
    features = [
        torch.cat([_features(branch, images) for branch in ensemble.branches], 1) for images in (reference, a, b)
    ]
    widths = [_features(branch, reference[:1]).shape[1] for branch in ensemble.branches]
    agreements = {"ensemble": _by_features(features, answers)}
    splits = zip(*(f.split(widths, dim=1) for f in features), strict=True)
    for config, parts in zip(ensemble.configs, splits, strict=True):
        agreements[config.name] = _by_features(list(parts), answers)
    for name, distance in (("mse", mse), ("ssim", _ssim)):
        agreements[name] = agreement(distance(reference, a), distance(reference, b), answers)
    return {"triplets": count, "agreement": {name: dataclasses.asdict(value) for name, value in agreements.items()}}


def branch_agreement(branch: Branch, count: int) -> float:
    """Share of `count` triplets of the split "val" on which a branch alone agrees with the factors."""
    triplets, pictures = _validation(count)
    return _by_features([_features(branch, images) for images in pictures], _answers(triplets)).share


@lru_cache(maxsize=1)
def _validation(count: int) -> tuple[list[SceneTriplet], tuple[Image, Image, Image]]:
    triplets = sample_triplets(count, "val")
    return triplets, draw_triplets(triplets)


def _ssim(x: Image, y: Image) -> Distance:
    """1 - SSIM, whose windows reach over the border into a mirrored picture."""
    from kornia.metrics import ssim

    return 1 - ssim(x, y, 11).mean((1, 2, 3))


def _by_features(features: list[Tensor], answers: Tensor) -> Agreement:
    """Agreement of the metric's distance between features of references, a and b."""
    reference, a, b = (unit(x - x.mean(1, keepdim=True)) for x in features)
    return agreement(half_chord(reference, a), half_chord(reference, b), answers)


def _answers(triplets: list[SceneTriplet]) -> Tensor:
    return torch.tensor([triplet.b_is_nearer for triplet in triplets])


@torch.no_grad()
def _features(branch: nn.Module, images: Image, batch: int = 128) -> Embedding:
    return torch.cat([branch(part) for part in images.split(batch)])
