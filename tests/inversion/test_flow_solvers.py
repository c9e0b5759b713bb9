"""RF-Solver and FireFlow: order of convergence, evaluations, round trips, and which pipelines they are for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build
from torch import Tensor
from trajectories import arguments, distance, double, sampled

from dreamsim_guidance.guidance import guide
from dreamsim_guidance.inversion import (
    FlowMatchFireFlowScheduler,
    FlowMatchRFSolverScheduler,
    invert_trajectory,
)

EVALUATIONS = {"rf-solver": lambda steps: 2 * steps, "fireflow": lambda steps: steps + 1}

pytestmark = pytest.mark.filterwarnings("ignore:There are modules in")


def component(x: Tensor, t: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """The velocity of data N(mean, spread^2), and the log-density of the state x up to a constant."""
    variance, deviation = (1 - t) ** 2 * spread**2 + t**2, x - (1 - t) * mean
    log_density = -(deviation**2) / (2 * variance) - variance.log() / 2
    return (t - (1 - t) * spread**2) / variance * deviation - mean, log_density


def gaussian_flow(monkeypatch: pytest.MonkeyPatch) -> tuple[TinyPipeline, Tensor, Any]:
    """SD3 with the exact velocity of data N(mean, spread^2), data of it, and the solution of the flow from t = 0.

    The state is N((1 - t) mean, (1 - t)^2 spread^2 + t^2), and the flow keeps its standardised value.
    """
    tiny = double("sd3")
    generator = torch.Generator().manual_seed(0)
    mean, spread = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    spread = 0.3 + spread.abs()
    data = mean + spread * torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)

    def velocity(hidden_states: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        return (component(hidden_states, timestep.double().view(-1, 1, 1, 1) / 1000, mean, spread)[0],)

    monkeypatch.setattr(tiny.pipe.transformer, "forward", velocity)
    return tiny, data, (data - mean) / spread


def inverted(tiny: TinyPipeline, x0: Tensor, method: str, steps: int, **options: Any) -> Any:
    call = arguments(tiny, len(x0), num_inference_steps=steps, guidance_scale=1.0)
    return invert_trajectory(tiny.pipe, x0=x0, method=method, **call, **options)


@pytest.mark.parametrize(("method", "order", "steps"), [("ddim", 1, 16), ("rf-solver", 3, 64), ("fireflow", 2, 64)])
def test_the_order_of_convergence_on_gaussian_data(
    monkeypatch: pytest.MonkeyPatch, method: str, order: int, steps: int
) -> None:
    """The midpoint rule has order 3 here, not 2: the term of third order of its local error is a multiple of the third
    derivative of the variance in t, which is a polynomial of degree 2.
    """
    tiny, data, noise = gaussian_flow(monkeypatch)
    coarse, fine = (distance(inverted(tiny, data, method, n).noise, noise).mean() for n in (steps, 2 * steps))
    assert abs(float((coarse / fine).log2()) - order) < 0.25, (coarse, fine)
    if method == "ddim":
        return
    tiny.pipe.scheduler = inverted(tiny, data, method, 2).scheduler
    call = arguments(tiny, guidance_scale=1.0)
    coarse, fine = (
        distance(sampled(tiny, {**call, "num_inference_steps": n}, latents=noise), data).mean()
        for n in (steps, 2 * steps)
    )
    assert abs(float((coarse / fine).log2()) - order) < 0.3, (coarse, fine)


@pytest.mark.parametrize(("method", "steps"), [("rf-solver", 64), ("fireflow", 256)])
def test_the_order_of_convergence_on_a_mixture_is_two(monkeypatch: pytest.MonkeyPatch, method: str, steps: int) -> None:
    tiny, data, _ = gaussian_flow(monkeypatch)
    means, spread = torch.tensor([-1.0, 1.2], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)

    def velocity(hidden_states: Tensor, timestep: Tensor, **_: Any) -> tuple[Tensor]:
        t = timestep.double().view(-1, 1, 1, 1) / 1000
        parts = [component(hidden_states, t, mean, spread) for mean in means]
        weights = torch.stack([log_density for _, log_density in parts]).softmax(0)
        return ((weights * torch.stack([v for v, _ in parts])).sum(0),)

    monkeypatch.setattr(tiny.pipe.transformer, "forward", velocity)
    exact = inverted(tiny, data, "rf-solver", 1000).noise
    coarse, fine = (distance(inverted(tiny, data, method, n).noise, exact).mean() for n in (steps, 2 * steps))
    assert abs(float((coarse / fine).log2()) - 2) < 0.3, (coarse, fine)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("method", EVALUATIONS)
def test_the_denoiser_is_called_as_often_as_the_papers_say(
    monkeypatch: pytest.MonkeyPatch, method: str, steps: int
) -> None:
    tiny, data, _ = gaussian_flow(monkeypatch)
    velocity, times = tiny.pipe.transformer.forward, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        times.append(float(kwargs["timestep"][0]))
        return velocity(*args, **kwargs)

    monkeypatch.setattr(tiny.pipe.transformer, "forward", counted)
    result = inverted(tiny, data, method, steps)
    assert len(times) == result.evaluations == EVALUATIONS[method](steps)
    assert times[0] == 0 and times == sorted(times)
    assert result.states.shape == (steps + 1, *data.shape) and result.residuals.isnan().all()
    assert not result.converged.any()
    times.clear()
    result.reconstruct()
    assert len(times) == EVALUATIONS[method](steps) and times == sorted(times, reverse=True)


@pytest.mark.parametrize("family", ["sd3", "flux-dev", "flux2", "z-image"])
def test_every_flow_family_comes_back_nearer_than_by_plain_inversion(family: str) -> None:
    tiny = build(family) if family in ("flux2", "z-image") else double(family)
    call = arguments(tiny, num_inference_steps=8)
    x0 = sampled(tiny, call)
    own = tiny.pipe.scheduler
    plain = invert_trajectory(tiny.pipe, x0=x0, method="ddim", **{**call, "num_inference_steps": 16})
    bound = plain.reconstruct().latent_error.max()
    for method in EVALUATIONS:
        result = invert_trajectory(tiny.pipe, x0=x0, method=method, **call)
        assert result.reconstruct().latent_error.max() < bound
        assert tiny.pipe.scheduler is own
        edited = result.edit()
        tiny.pipe.scheduler = result.scheduler
        assert torch.equal(tiny.pipe(**result.call, output_type="pt").images, edited)
        tiny.pipe.scheduler = own


@pytest.mark.parametrize("method", EVALUATIONS)
def test_a_batch_gives_what_single_images_give(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    tiny, data, _ = gaussian_flow(monkeypatch)
    together = inverted(tiny, data, method, 4)
    for k in range(2):
        alone = inverted(tiny, data[k : k + 1], method, 4)
        assert torch.allclose(alone.noise[0], together.noise[k], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", EVALUATIONS)
def test_images_are_edited_with_the_same_sampler_and_guided(method: str) -> None:
    tiny = build("sd3")
    image = torch.rand(1, 3, 32, 32)
    result = invert_trajectory(tiny.pipe, image, method=method, **arguments(tiny, 1, guidance_scale=1.0))
    again = result.reconstruct()
    assert again.floor is not None and again.images.shape == image.shape
    assert torch.equal(again.images, result.edit())
    loss = lambda images: images.square().flatten(1).mean(1)  # noqa: E731
    with pytest.raises(RuntimeError, match="replace it before the block"), guide(tiny.pipe, loss):
        result.edit()
    tiny.pipe.scheduler = result.scheduler
    with guide(tiny.pipe, loss):
        guided = result.edit()
    assert loss(guided) < loss(again.images)


@pytest.mark.parametrize("family", ["sd-v", "sdxl", "ddim"])
@pytest.mark.parametrize("method", EVALUATIONS)
def test_other_schedulers_are_refused(family: str, method: str) -> None:
    with pytest.raises(ValueError, match=r"flow-matching pipelines .*not for .*Scheduler; use method='anderson'"):
        invert_trajectory(build(family).pipe, torch.rand(1, 3, 32, 32), method=method)


def test_stochastic_sampling_is_refused() -> None:
    tiny = build("sd3")
    tiny.pipe.scheduler.register_to_config(stochastic_sampling=True)
    with pytest.raises(ValueError, match="without stochastic sampling"):
        invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), method="fireflow")


def test_null_text_is_refused() -> None:
    tiny = build("sd3")
    result = invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), method="fireflow", **arguments(tiny, 1))
    with pytest.raises(ValueError, match="pipeline's own sampler"):
        result.null_text()


@pytest.mark.parametrize("sampler", [FlowMatchRFSolverScheduler, FlowMatchFireFlowScheduler])
def test_implicit_methods_refuse_a_sampler_with_memory(sampler: Any) -> None:
    tiny = build("sd3")
    tiny.pipe.scheduler = sampler.from_config(tiny.pipe.scheduler.config)
    with pytest.raises(ValueError, match="cannot be inverted here"):
        invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), **arguments(tiny, 1, guidance_scale=1.0))
