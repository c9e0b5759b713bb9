"""For every scheduler: our clean estimate equals the one that it computes, and guidance and time travel work."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from tiny_pipelines import build, build_with_scheduler
from tiny_schedulers import CONFIGURATIONS, scheduler
from torch import Tensor

from dreamsim_guidance.guidance import MPGD, TFG, guide
from dreamsim_guidance.pipelines.levels import Level
from dreamsim_guidance.pipelines.scheduler import level_of, second_stage

TRAVELLER = TFG(strength=50.0, rho=0.0, mu=1.0, sigma=0.0, iterations=1, recurrence=2)  # MPGD with time travel
UNCLIPPED = [name for name in CONFIGURATIONS if name not in ("DDPM-clipped", "DDIM-thresholding")]


@pytest.mark.parametrize("name", UNCLIPPED)
def test_the_clean_estimate_equals_that_of_the_scheduler(name: str) -> None:
    sampler = scheduler(name)
    sampler.set_timesteps(6)
    x, compared = torch.randn(2, 4, 8, 8) * float(getattr(sampler, "init_noise_sigma", 1.0)), 0
    for t in sampler.timesteps:
        m = torch.randn(2, 4, 8, 8)
        if hasattr(sampler, "scale_model_input"):
            sampler.scale_model_input(x, t)
        level = level_of(sampler, t)
        estimates, x_next = estimates_and_next_state(sampler, level, m, t, x)
        ours = level.clean(m, x)
        for estimate in estimates:
            compared += 1
            assert (ours - estimate).abs().max() <= 1e-6 * estimate.abs().max(), (float(t), level)
        x64, m64 = x.double(), m.double()
        recovered = level.model_output(level.clean(m64, x64), x64)
        assert level.q == 0 or (recovered - m64).abs().max() <= 1e-6 * m64.abs().max()
        x = x_next
    assert compared >= (1 if name.startswith(("Flow", "TCD")) else 5)


def estimates_and_next_state(
    sampler: Any, level: Level, m: Tensor, t: Tensor, x: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The clean estimate of the scheduler at this step, from each place where it can be read; and the next state."""
    estimates: list[Tensor] = []
    ours = level.clean(m, x)
    if hasattr(sampler, "convert_model_output"):
        converted = sampler.convert_model_output(m, sample=x)
        if type(sampler).__name__.startswith("DEIS"):  # DEIS integrates the noise
            converted = ours + converted - level.noise(ours, x)
        estimates.append(converted)
    if hasattr(sampler, "_get_prev_sample"):  # PNDM: a step to a level without noise gives the estimate
        sampler.final_alpha_cumprod = torch.tensor(1.0)
        estimates.append(sampler._get_prev_sample(x, int(t), -1, m))
    scalings = getattr(sampler, "get_scalings_for_boundary_condition_discrete", None)
    seeded = {"generator": torch.Generator().manual_seed(0)} if takes_generator(sampler) else {}
    last = bool(t == sampler.timesteps[-1]) and not second_stage(sampler)
    result = sampler.step(m, t, x, **seeded)
    if getattr(result, "pred_original_sample", None) is not None:
        estimates.append(result.pred_original_sample)
    if scalings is not None and hasattr(result, "denoised"):  # consistency models mix state and estimate
        c_skip, c_out = (float(value) for value in scalings(t))
        estimates.append((result.denoised - c_skip * x) / c_out)
    if hasattr(result, "pred_noised_sample") and last:  # TCD adds noise to the level of timestep 0
        signal = float(sampler.alphas_cumprod[0])
        estimates.append((result.pred_noised_sample - math.sqrt(1 - signal) * level.noise(ours, x)) / math.sqrt(signal))
    if type(sampler).__name__.startswith("FlowMatch") and last:
        estimates.append(result.prev_sample)  # the last state has no noise and is the estimate
    return estimates, result.prev_sample


def takes_generator(sampler: Any) -> bool:
    return "generator" in inspect.signature(sampler.step).parameters


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_guidance_lowers_the_loss_and_every_distance_is_finite(name: str) -> None:
    tiny = build_with_scheduler(name)
    loss = tiny.loss()
    unguided = float(loss(tiny.call()).mean())
    for method in (MPGD(strength=50.0), TRAVELLER):
        with guide(tiny.pipe, loss, method) as log:
            assert float(loss(tiny.call()).mean()) < 0.99 * unguided
        assert log.skipped == 0 and all(math.isfinite(d) for entry in log.entries for d in entry.distance)


PARTIAL = [("DDIM-e", 0.3), ("DDIM-e", 1.0), ("PNDM-e", 0.6), ("Euler-e", 0.6), ("Heun-v", 0.6), ("KDPM2-e", 0.6)]
PARTIAL += [("DPMSolverMultistep-e", 0.6), ("UniPCMultistep-v", 0.6), ("LCM-e", 0.6), ("DDPM-v", 0.6)]


@pytest.mark.parametrize(("name", "strength"), PARTIAL)
@pytest.mark.parametrize("family", ["sd-img2img", "sd-inpaint-4"])
def test_time_travel_repeats_the_levels_of_a_schedule_that_starts_in_the_middle(
    family: str, name: str, strength: float
) -> None:
    tiny = build(family)
    tiny.pipe.scheduler = scheduler(name)
    loss, levels = tiny.loss(steps=5, strength=strength), []
    for recurrence in (1, 3):
        with guide(tiny.pipe, loss, TFG(recurrence=recurrence, iterations=1, sigma=0.0)) as log:
            assert tiny.call(steps=5, strength=strength).isfinite().all()
        levels.append([entry.noise for entry in log.entries])
    assert levels[1] == [noise for noise in levels[0] for _ in range(3)]


@pytest.mark.parametrize("family", ["sdxl-inpaint", "sdxl-refiner", "sd3-img2img", "flux-img2img"])
def test_time_travel_repeats_each_level_in_other_families(family: str) -> None:
    tiny = build(family)
    loss = tiny.loss()
    unguided = float(loss(tiny.call()).mean())
    with guide(tiny.pipe, loss, TFG(1.0, recurrence=2, iterations=1)) as log:
        assert float(loss(tiny.call()).mean()) < unguided
    noises = [entry.noise for entry in log.entries]
    assert noises[::2] == noises[1::2] and noises == sorted(noises, reverse=True)
