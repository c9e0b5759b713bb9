"""Triplets of scenes with a known answer: which of two variations is nearer to the reference?

A triplet is a reference scene and two variations of it, each with its own random set of changed factors and its own amount. All
three have different seeds: jitter, grain and scattered places differ even if no factor does, so that comparing pixels is no
shortcut. The answer is the variation with the smaller `factor_distance`; triplets whose two distances are closer than `margin`
are drawn again.

Triplets are numbered within a split ("train", "val", "test"), and the splits share no seed; see `scene.SPLITS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene import Scene, factor_distance, sample_scene, scene_generator
from dreamsim_guidance.data.scenes.variations import random_variation
from dreamsim_guidance.types import Distance, Image

__all__ = ["Agreement", "SceneTriplet", "agreement", "draw_triplets", "sample_triplet", "sample_triplets"]

MARGIN = 0.05


@dataclass(frozen=True)
class SceneTriplet:
    """A reference scene, two variations, and their factor distances to it."""

    reference: Scene
    a: Scene
    b: Scene
    distance_a: float
    distance_b: float

    @property
    def b_is_nearer(self) -> bool:
        return self.distance_b < self.distance_a


@dataclass(frozen=True)
class Agreement:
    """The share of triplets that a distance orders as the factors do, with a 95 % interval (bootstrap over triplets)."""

    share: float
    low: float
    high: float
    count: int


def sample_triplet(generator: torch.Generator, margin: float = MARGIN) -> SceneTriplet:
    """Return a triplet whose variations each change one to four factors, by an amount between 0.1 and 1."""
    while True:
        reference = sample_scene(generator)
        a, b = random_variation(reference, generator), random_variation(reference, generator)
        distance_a, distance_b = factor_distance(reference, a), factor_distance(reference, b)
        if abs(distance_a - distance_b) >= margin:
            return SceneTriplet(reference, a, b, distance_a, distance_b)


def sample_triplets(count: int, split: str, first: int = 0, margin: float = MARGIN) -> list[SceneTriplet]:
    """Return triplets `first`, ..., `first + count - 1` of a split; each depends on its own number only."""
    return [sample_triplet(scene_generator(first + i, split), margin) for i in range(count)]


def draw_triplets(triplets: Sequence[SceneTriplet], size: int = 64) -> tuple[Image, Image, Image]:
    """Return the pictures of the references, of `a` and of `b`, each `(n, 3, size, size)`."""
    columns = ([t.reference for t in triplets], [t.a for t in triplets], [t.b for t in triplets])
    reference, a, b = (torch.cat([draw(scene, size) for scene in column]) for column in columns)
    return reference, a, b


def agreement(distance_a: Distance, distance_b: Distance, b_is_nearer: Tensor, resamples: int = 2000) -> Agreement:
    """Return how often distances to the reference agree with the answers `(n,)`; a tie counts as half."""
    answers = b_is_nearer.bool()
    right = torch.where(answers, distance_b < distance_a, distance_a < distance_b).double()
    right = torch.where(distance_a == distance_b, 0.5, right)
    count = len(right)
    generator = torch.Generator().manual_seed(0)
    means = torch.stack([right[torch.randint(count, (count,), generator=generator)].mean() for _ in range(resamples)])
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Agreement(float(right.mean()), low, high, count)
