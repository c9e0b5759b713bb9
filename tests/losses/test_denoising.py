"""The denoising error of images: its value where the denoiser is known, its gradient, and what it leaves unchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pipeline_state import state_of
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build
from tiny_unet_pipelines import ddim_scheduler
from torch import Tensor

from dreamsim_guidance.losses import DenoisingError
from dreamsim_guidance.pipelines.encoder import encode

pytestmark = pytest.mark.filterwarnings("ignore:There are modules in")


def error(tiny: TinyPipeline, levels: tuple[float, ...] = (0.3, 0.6), **options: Any) -> DenoisingError:
    inputs = {key: tiny.cast(value) for key, value in tiny.inputs(1).items()}
    return DenoisingError(tiny.pipe, levels, **{**inputs, "num_inference_steps": 10, "guidance_scale": 1.0, **options})


def images(batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_a_denoiser_that_finds_no_noise_has_an_error_of_the_noise_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("sd-v")
    tiny.pipe.scheduler = ddim_scheduler()
    monkeypatch.setattr(tiny.pipe.unet, "forward", lambda sample, t, **_: (torch.zeros_like(sample),))
    loss = error(tiny)
    values = torch.stack([loss.at(step)(images()) for step in range(8)])
    assert values.mean() == pytest.approx(1.0, abs=0.1)  # 8 x 2 x 256 squares of normal numbers


def test_a_denoiser_that_knows_the_image_has_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("sd-v")
    tiny.pipe.scheduler = ddim_scheduler()
    loss = error(tiny)
    x0 = encode(loss.denoise.call.decoder, images(), loss.denoise.call.like.expand(2, -1, -1, -1))
    alphas = tiny.pipe.scheduler.alphas_cumprod

    def exact(sample: Tensor, t: Tensor, **_: Any) -> tuple[Tensor]:
        signal = alphas[int(t)]
        return ((sample - signal.sqrt() * x0) / (1 - signal).sqrt(),)

    monkeypatch.setattr(tiny.pipe.unet, "forward", exact)
    assert loss(images()).max() < 1e-8
    assert loss(images().flip(0)).min() > 1e-4


@pytest.mark.parametrize("family", ["sd-v", "sdxl", "sd3", "flux-dev", "lcm", "sdxl-turbo", "sana"])
def test_every_family_has_a_gradient_and_samples_that_do_not_interact(family: str) -> None:
    tiny = build(family)
    tiny.call(steps=2)
    before = state_of(tiny.pipe)
    loss, x = error(tiny), images().requires_grad_()
    assert all(
        abs(loss.denoise.levels[i].relative - level) < 0.3 for i, level in zip(loss.steps, (0.3, 0.6), strict=True)
    )
    values = loss(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert (gradient.flatten(1).norm(dim=1) > 0).all() and gradient.isfinite().all()
    alone = torch.cat([loss(image[None]) for image in images()])
    assert torch.allclose(values.detach(), alone, rtol=1e-4)
    assert torch.equal(loss(images()), loss.at(0)(images()))
    assert (loss.at(1)(images()) != loss.at(0)(images())).all()
    assert state_of(tiny.pipe) == before


def test_the_gradient_agrees_with_finite_differences() -> None:
    tiny = build("sd-v")
    tiny.pipe.to(torch.float64)
    loss, x, direction = error(tiny), images(1, torch.float64).requires_grad_(), torch.randn(1, 3, 32, 32).double()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    with torch.no_grad():
        near, far = (float(loss(x + h * direction) - loss(x - h * direction)) / (2 * h) for h in (1e-4, 2e-4))
    assert (4 * near - far) / 3 == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("levels", [(), (0.0,), (0.5, 1.0)])
def test_levels_outside_of_their_range_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="levels must be one or more numbers between 0 and 1"):
        error(build("sd-v"), levels)


def test_images_of_another_size_than_the_call_are_refused() -> None:
    with pytest.raises(ValueError, match="their size that of the pipeline's call"):
        error(build("sd-v"))(torch.rand(1, 3, 64, 64))
