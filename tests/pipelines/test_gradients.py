"""Gradients through the denoiser and through whole pipelines agree with finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build
from tiny_unet_pipelines import ddim_scheduler
from torch import Tensor

from dreamsim_guidance.guidance import Method, differentiable, guide
from dreamsim_guidance.guidance.step import Step

pytestmark = pytest.mark.exact

FAMILIES = ("sd", "sdxl", "sd3", "flux-dev", "flux-true-cfg", "ddim", "sd-inpaint-9", "modular-sdxl", "modular-sd3")


@dataclass(frozen=True)
class Probe(Method):
    """Adds an offset to the result of the first step and records distance and gradient at the second; changes nothing else."""

    strength: int | float = 1.0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def through_denoiser(self) -> bool:
        return True

    def __call__(self, step: Step) -> Tensor:
        if "distance" not in self.notes and "first" in self.notes:
            self.notes["gradient"] = step.pull_back(step.gradient()).detach() / step.elements
            self.notes["distance"] = float(step.distance)
        x_prev = step.sample()
        if "first" not in self.notes:
            self.notes["first"] = True
            x_prev = x_prev + self.notes["offset"] * direction(x_prev)
        return x_prev


def direction(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(9), dtype=like.dtype)


def build_in_float64(family: str) -> TinyPipeline:
    tiny = build(family)
    tiny.pipe.to(torch.float64)
    if hasattr(tiny.pipe, "vae"):  # keeps pixels in [0, 1]: bounds and clamps are not smooth
        tiny.pipe.vae.decoder.conv_out.weight.data.mul_(0.2)
    if family == "ddim":  # the gradient deliberately ignores clipping, differences do not
        tiny.pipe.scheduler.register_to_config(clip_sample=False)
    return tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_through_the_denoiser_agrees_with_finite_differences(family: str) -> None:
    tiny = build_in_float64(family)
    loss = tiny.loss(steps=3)

    def probe(offset: float) -> dict[str, Any]:
        method = Probe(notes={"offset": offset})
        with guide(tiny.pipe, loss, method):
            tiny.call(steps=3)
        return method.notes

    gradient = probe(0.0)["gradient"]
    assert gradient.dtype == torch.float64
    float32 = "sd3" in family or "flux" in family  # their RMS norms compute the mean square in float32
    slope = derivative(lambda offset: probe(offset)["distance"], 1e-2 if float32 else 5e-3)
    assert slope == pytest.approx(float((gradient * direction(gradient)).sum()), rel=1e-5 if float32 else 1e-6)


def derivative(f: Callable[[float], float], size: float) -> float:
    """The derivative of `f` at zero, by finite differences of fourth order with steps of `size`.

    The truncation error is up to 5e-8 of the slope for size 5e-3, and 16 times that for 1e-2, on every processor. Where values
    are rounded to float32, rounding adds up to 1e-6 for size 5e-3 and half of it for 1e-2; this differs between processors.
    """
    return (8 * (f(size) - f(-size)) - (f(2 * size) - f(-2 * size))) / (12 * size)


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux-dev", "flux-true-cfg"])
def test_the_gradient_of_a_pipeline_in_its_latents_agrees_with_finite_differences(family: str) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    tiny = build_in_float64(family)
    if family in ("sd", "sdxl"):  # Euler computes in float32 even for a float64 state
        tiny.pipe.scheduler = ddim_scheduler()
    loss, z = tiny.loss(steps=3), initial_latents(tiny).requires_grad_()
    with differentiable(tiny.pipe):
        images = tiny.call(steps=3, latents=z)
        (gradient,) = torch.autograd.grad(loss(images).sum(), z)
    assert torch.allclose(images.detach(), tiny.call(steps=3, latents=z.detach()), atol=1e-6)
    v = direction(z)
    float32 = isinstance(tiny.pipe.scheduler, FlowMatchEulerDiscreteScheduler)  # always computes in float32
    size = 1e-2 if float32 else 5e-3
    slope = derivative(lambda offset: float(loss(tiny.call(steps=3, latents=z.detach() + offset * v)).sum()), size)
    assert slope == pytest.approx(float((gradient * v).sum()), rel=1e-4 if float32 else 1e-6)


def initial_latents(tiny: TinyPipeline) -> Tensor:
    """Standard normal latents of the shape that the pipeline would draw."""
    latents: list[Tensor] = []
    prepare = tiny.pipe.prepare_latents

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = prepare(*args, **kwargs)
        latents.append(result[0] if isinstance(result, tuple) else result)
        return result

    tiny.pipe.prepare_latents = spy
    tiny.call(steps=2)
    del tiny.pipe.prepare_latents
    return torch.randn_like(latents[0])


def test_with_checkpointing_a_differentiable_run_saves_hardly_more_for_more_steps() -> None:
    tiny = build("sd")
    z = torch.randn(1, 4, 8, 8, requires_grad=True)

    def saved_numbers(steps: int, checkpointing: bool) -> int:
        sizes: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with (
            differentiable(tiny.pipe, checkpointing=checkpointing),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            tiny.call(steps=steps, latents=z)
        return sum(sizes)

    growth = saved_numbers(8, True) - saved_numbers(4, True)
    assert growth < 0.02 * (saved_numbers(8, False) - saved_numbers(4, False))
