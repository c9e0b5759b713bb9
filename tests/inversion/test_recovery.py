"""Own samples of a generator with random weights are found again, and searching the start is what finds the right basin."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import Inversion, invert

spec = importlib.util.spec_from_file_location("small_stylegan", Path(__file__).with_name("small_stylegan.py"))
assert spec is not None and spec.loader is not None
small_stylegan: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_stylegan)


class Own:
    """A generator with random weights, and samples of its own to be found again."""

    def __init__(self, seed: int, count: int) -> None:
        self.generator, self.count = small_stylegan.StyleGAN(seed), count
        self.targets = self.generator(self.generator.sample(count, torch.Generator().manual_seed(100 + seed)))

    def recovered(self, loss: Any, init: Any, steps: int = 400, **options: Any) -> Inversion:
        scale = self.generator.w_std
        return invert(loss, self.generator, init, steps, batch=self.count, scale=scale, progress=False, **options)

    def mse(self, images: Tensor) -> Tensor:
        return (images - self.targets).square().flatten(1).mean(1)

    def errors(self, result: Inversion) -> Tensor:
        """Mean squared error over the variance of the targets."""
        return self.mse(result.images) / self.targets.var()


@pytest.mark.parametrize("seed", [0, 3])
def test_the_pixels_of_own_samples_are_recovered_exactly(seed: int) -> None:
    own = Own(seed, 8)
    assert (own.errors(own.recovered(own.mse, own.generator.sample)) < 1e-8).all()


@pytest.mark.parametrize("seed", [0, 3])
def test_an_embedding_is_inverted_from_searched_starts_more_often_than_from_the_mean(seed: int) -> None:
    own, steps = Own(seed, 16), 100
    loss = small_stylegan.Embedding(own.targets)
    searched = own.recovered(loss, own.generator.sample, steps)
    from_mean = own.recovered(loss, own.generator.w_avg.expand(own.count, -1), steps)
    successes = (own.errors(searched) < 1e-3).sum()
    assert successes >= 14
    assert (own.errors(from_mean) < 1e-3).sum() <= successes - 4


def test_lbfgs_recovers_an_embedding_in_a_quarter_of_the_steps() -> None:
    own = Own(0, 8)
    result = own.recovered(small_stylegan.Embedding(own.targets), own.generator.sample, 100, optimiser="lbfgs")
    assert (own.errors(result) < 1e-8).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_32_targets_are_recovered_with_every_seed(seed: int) -> None:
    own = Own(seed, 32)
    pixels = own.recovered(own.mse, own.generator.sample, seed=seed)
    assert (own.errors(pixels) < 1e-8).all()
    embedding = own.recovered(small_stylegan.Embedding(own.targets), own.generator.sample, seed=seed)
    assert (own.errors(embedding) < 1e-3).sum() >= 31
