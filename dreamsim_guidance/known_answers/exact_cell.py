"""One cell of the comparison with the exact posterior: prior, energy, truth, and a guided run."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from dreamsim_guidance.guidance import Method, guide
from dreamsim_guidance.guidance.methods import method_class
from dreamsim_guidance.known_answers.exact_pipelines import exact_pipeline, final_state
from dreamsim_guidance.known_answers.exact_truth import Cell, ExactTruth
from dreamsim_guidance.known_answers.gaussian_mixture import GaussianMixture, random_mixture
from dreamsim_guidance.known_answers.posterior import (
    Energy,
    LinearEnergy,
    QuadraticEnergy,
    errors,
    image_loss,
    sampling_floor,
)

__all__ = ["measure", "problem"]


def problem(config: ExactTruth, case: str) -> tuple[GaussianMixture, Energy]:
    """The prior and the energy of a case. What is observed was drawn from the prior, with the observation's noise."""
    dimension = math.prod(config.shape)
    kind, form = case.split("-")
    prior = random_mixture(
        dimension,
        config.weights if kind == "mixture" else (1.0,),
        apart=config.apart,
        correlation=0.0 if kind == "isotropic" else config.correlation,
        seed=config.seed,
    )
    generator = torch.Generator().manual_seed(config.seed + 1)
    if form == "linear":
        return prior, LinearEnergy(config.tilt * torch.randn(dimension, generator=generator, dtype=torch.float64))
    rows = torch.eye(dimension, dtype=torch.float64)[list(config.observed)]
    noise = config.sigma * torch.randn(len(rows), generator=generator, dtype=torch.float64)
    return prior, QuadraticEnergy(rows, rows @ prior.sample(1, generator)[0] + noise, config.sigma)


def measure(config: ExactTruth, cell: Cell) -> dict[str, Any]:
    """Errors of the cell's samples, those of as many exact ones, and the seconds of the run."""
    prior, energy = problem(config, cell.case)
    truth = prior if cell.method == "none" else energy.scaled(cell.strength).posterior(prior)
    pipe, arguments = exact_pipeline(prior, config.shape, cell.sampler)
    generator = torch.Generator().manual_seed(config.seed + 2)
    began = time.perf_counter()
    with ExitStack() as stack:
        if cell.method != "none":
            stack.enter_context(guide(pipe, partial(image_loss, energy), _method(config, cell)))
        kept = stack.enter_context(final_state(pipe.scheduler))
        pipe(batch_size=config.samples, num_inference_steps=cell.steps, generator=generator, **arguments)
    seconds = time.perf_counter() - began
    found = errors(kept[0].flatten(1), truth)
    floor = sampling_floor(truth, config.samples, seed=config.seed)
    return {
        **{name: getattr(found, name) for name in ("mean", "covariance", "wasserstein", "weights")},
        **{f"floor {name}": getattr(floor, name) for name in ("mean", "covariance", "wasserstein", "weights")},
        "seconds": round(seconds, 2),
    }


def _method(config: ExactTruth, cell: Cell) -> Method:
    """The method of a cell. Those that aim at the exact posterior go without a trust region, which would be a bias."""
    name, _, rule = cell.method.partition("-")
    # products with the curvature span as many directions as the energy has
    solves = len(config.observed) if cell.case.endswith("quadratic") else 1
    exact: dict[str, dict[str, Any]] = {
        "dps": {"cap": None},
        "lgd": {"cap": None, "samples": config.draws},
        "mmps": {"cap": None, "solves": solves},
    }
    options = exact.get(name, {})
    if rule:
        options["rule"] = rule
    kind: Any = method_class(name)
    return kind(cell.strength, **options) if kind.strength_is_energy else kind(**options)
