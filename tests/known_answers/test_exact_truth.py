"""Guided samples compared with posteriors in closed form, drawn with the schedulers and pipelines of diffusers."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dreamsim_guidance.guidance import DPS, LGD, MMPS, MPGD, FlowChef, Method, guide
from dreamsim_guidance.known_answers.exact_cell import problem
from dreamsim_guidance.known_answers.exact_pipelines import exact_pipeline, final_state
from dreamsim_guidance.known_answers.exact_truth import ExactTruth
from dreamsim_guidance.known_answers.gaussian_mixture import GaussianMixture
from dreamsim_guidance.known_answers.posterior import Energy, Errors, errors, image_loss, sampling_floor

CONFIG = ExactTruth(shape=(1, 2, 2), observed=(0, 3), samples=1000)

ALL = ("ddim", "ddim-eta1", "ddpm", "dpm++2m", "euler", "unipc", "flow")

EXACT: list[tuple[str, Method, tuple[str, ...]]] = [
    ("gaussian-linear", DPS(1.0, cap=None), ALL),
    ("gaussian-linear", MMPS(1.0, solves=1, cap=None), ("ddim", "flow")),
    ("gaussian-quadratic", MMPS(1.0, solves=2, cap=None), ("ddpm", "dpm++2m", "flow")),
    ("isotropic-quadratic", LGD(1.0, samples=32, cap=None), ("dpm++2m",)),
]
"""Methods that use the exact score in the case, with the samplers; a quadratic energy of two entries needs two GMRES steps."""

RUNS = [(case, method, sampler) for case, method, samplers in EXACT for sampler in samplers]

SECOND_ORDER = ("dpm++2m", "unipc")
"""These reach the sampling floor after 40 steps. First-order samplers still have an error as large as the floor after 100
(about 1/100 of a standard deviation), hence the two bounds below."""


def guided(case: str, method: Method, sampler: str, steps: int, strength: float = 1.0) -> tuple[Errors, Errors]:
    """Errors of a guided run, and the errors of as many exact samples of the posterior."""
    prior, energy = problem(CONFIG, case)
    truth = energy.scaled(strength).posterior(prior)
    samples = _run(prior, energy, method, sampler, steps)
    return errors(samples, truth), sampling_floor(truth, CONFIG.samples)


@pytest.mark.parametrize(("case", "method", "sampler"), RUNS, ids=[f"{c}-{type(m).__name__}-{s}" for c, m, s in RUNS])
def test_methods_with_the_exact_score_converge_to_the_posterior(case: str, method: Method, sampler: str) -> None:
    steps, bound = (40, 1.5) if sampler in SECOND_ORDER else (100, 2.0)
    few, floor = guided(case, method, sampler, 4)
    many, _ = guided(case, method, sampler, steps)
    assert many.wasserstein < bound * floor.wasserstein
    assert many.wasserstein < few.wasserstein / 2
    assert many.mean < 3 * floor.mean


@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_the_strength_multiplies_the_energy(strength: float) -> None:
    right, floor = guided("gaussian-quadratic", MMPS(strength, solves=2, cap=None), "dpm++2m", 40, strength)
    wrong, _ = guided("gaussian-quadratic", MMPS(strength, solves=2, cap=None), "dpm++2m", 40, 1.0)
    assert right.wasserstein < 1.5 * floor.wasserstein
    assert wrong.wasserstein > 3 * floor.wasserstein


def test_mmps_comes_closer_than_dps_to_the_posterior_of_a_mixture() -> None:
    mmps, floor = guided("mixture-quadratic", MMPS(1.0, solves=2, cap=None), "dpm++2m", 40)
    dps, _ = guided("mixture-quadratic", DPS(1.0, cap=None), "dpm++2m", 40)
    # MMPS is not exact here: x0 given x_t is Gaussian, as it assumes, only for a Gaussian prior
    assert mmps.wasserstein < 2.5 * floor.wasserstein < dps.wasserstein
    assert mmps.weights < 0.05


@pytest.mark.parametrize("method", [MPGD(1.0), DPS(1.0), FlowChef(1.0)], ids=lambda method: type(method).__name__)
def test_heuristics_have_a_bias_that_more_steps_do_not_remove(method: Method) -> None:
    (few, floor), (many, _) = (guided("gaussian-quadratic", method, "dpm++2m", steps) for steps in (20, 100))
    assert many.wasserstein > 2.5 * floor.wasserstein
    assert many.wasserstein > 0.8 * few.wasserstein


def _run(prior: GaussianMixture, energy: Energy, method: Method, sampler: str, steps: int) -> torch.Tensor:
    pipe, arguments = exact_pipeline(prior, CONFIG.shape, sampler)
    with guide(pipe, partial(image_loss, energy), method), final_state(pipe.scheduler) as states:
        pipe(
            batch_size=CONFIG.samples,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(1),
            **arguments,
        )
    return states[0].flatten(1)
