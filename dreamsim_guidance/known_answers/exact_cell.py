"""Measure one condition of the comparison with the exact posterior: prior, energy, posterior, and a guided run."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from dreamsim_guidance.guidance import Method, guide
from dreamsim_guidance.guidance.methods import method_class
from dreamsim_guidance.known_answers.exact_pipelines import exact_pipeline, final_state
from dreamsim_guidance.known_answers.exact_truth import Condition, ExactTruth
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
    """The prior and the energy of a case. The observation of a quadratic energy is drawn from the prior, with its noise."""
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


def measure(config: ExactTruth, condition: Condition) -> dict[str, Any]:
    """The errors of a condition's samples, those of as many exact samples ("floor ..."), and the seconds of sampling."""
    prior, energy = problem(config, condition.case)
    truth = prior if condition.method == "none" else energy.scaled(condition.strength).posterior(prior)
    pipe, arguments = exact_pipeline(prior, config.shape, condition.sampler)
    generator = torch.Generator().manual_seed(config.seed + 2)
    start = time.perf_counter()
    with ExitStack() as stack:
        if condition.method != "none":
            stack.enter_context(guide(pipe, partial(image_loss, energy), _method(config, condition)))
        states = stack.enter_context(final_state(pipe.scheduler))
        pipe(batch_size=config.samples, num_inference_steps=condition.steps, generator=generator, **arguments)
    seconds = time.perf_counter() - start
    floor = sampling_floor(truth, config.samples, seed=config.seed)
    return {
        **asdict(errors(states[0].flatten(1), truth)),
        **{f"floor {name}": value for name, value in asdict(floor).items()},
        "seconds": round(seconds, 2),
    }


def _method(config: ExactTruth, condition: Condition) -> Method:
    """The method of a condition. Those that aim at the exact posterior go without a trust region, which would be a bias."""
    name, _, rule = condition.method.partition("-")
    # products with the curvature span as many directions as the energy has
    solves = len(config.observed) if condition.case.endswith("quadratic") else 1
    exact: dict[str, dict[str, Any]] = {
        "dps": {"cap": None},
        "lgd": {"cap": None, "samples": config.draws},
        "mmps": {"cap": None, "solves": solves},
    }
    options = exact.get(name, {})
    if rule:
        options["rule"] = rule
    kind: Any = method_class(name)
    return kind(condition.strength, **options) if kind.strength_is_energy else kind(**options)
