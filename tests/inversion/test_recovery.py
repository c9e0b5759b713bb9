"""Own samples of a generator with random weights are found again, and searching the start is what finds the right basin."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance import Inversion, invert

spec = importlib.util.spec_from_file_location("small_stylegan", Path(__file__).with_name("small_stylegan.py"))
assert spec is not None and spec.loader is not None
small_stylegan: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_stylegan)

SAMPLES = 8
STYLEGAN = small_stylegan.StyleGAN(0)
TARGETS = STYLEGAN(STYLEGAN.sample(SAMPLES, torch.Generator().manual_seed(5)))


def recovered(loss: Any, init: Any, steps: int = 400, **options: Any) -> Inversion:
    return invert(loss, STYLEGAN, init, steps, batch=SAMPLES, scale=STYLEGAN.w_std, progress=False, **options)


def errors(result: Inversion) -> Tensor:
    """Mean squared error over the variance of the targets."""
    return (result.images - TARGETS).square().flatten(1).mean(1) / TARGETS.var()


def test_the_pixels_of_own_samples_are_recovered_exactly() -> None:
    result = recovered(lambda x: (x - TARGETS).square().flatten(1).mean(1), STYLEGAN.sample)
    assert (errors(result) < 1e-8).all()


def test_an_embedding_is_inverted_from_searched_starts_more_often_than_from_the_mean() -> None:
    loss = small_stylegan.Embedding(TARGETS)
    searched = recovered(loss, STYLEGAN.sample)
    from_mean = recovered(loss, STYLEGAN.w_avg.expand(SAMPLES, -1))
    assert (errors(searched) < 1e-3).all()
    assert (errors(from_mean) < 1e-3).sum() <= SAMPLES - 2


def test_lbfgs_recovers_an_embedding_in_a_quarter_of_the_steps() -> None:
    result = recovered(small_stylegan.Embedding(TARGETS), STYLEGAN.sample, 100, optimiser="lbfgs")
    assert (errors(result) < 1e-8).all()
