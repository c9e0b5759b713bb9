"""Guidance on a GPU: pocket pipelines under every method and precision, offloaded, and differentiable as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim

pytest.importorskip("diffusers")

from dreamsim_guidance.guidance import DPS, MPGD, differentiable, guide
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.pocket import load_pocket

pytestmark = pytest.mark.gpu

PROMPT = "two large red stars in a row, on a blue background"


def pocket_pipeline(name: Any, device: str | None, dtype: torch.dtype = torch.float32) -> Any:
    pipe = load_pocket(name)
    if device is not None:
        pipe.to(device, dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: Any, name: str, steps: int = 4, **options: Any) -> Tensor:
    random = torch.Generator("cpu").manual_seed(0)
    prompt = {"prompt": PROMPT} if name == "latents" else {"batch_size": 1}
    output = "pt" if name == "latents" else "np"  # DDIMPipeline has no "pt"
    images = pipe(**prompt, num_inference_steps=steps, generator=random, output_type=output, **options).images
    return torch.as_tensor(images)


@pytest.fixture(scope="module")
def pixels(device: str) -> Any:
    return pocket_pipeline("pixels", device)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_guides_and_changes_nothing_at_strength_zero(
    pixels: Any, pocket: DreamSim, reference: Tensor, method: str
) -> None:
    loss = pocket.target(reference)
    noise = {"eta": 1.0} if method == "dsg" else {}  # DSG turns the noise that the sampler adds
    unguided = sample(pixels, "pixels", **noise)
    kind = method_class(method)
    with guide(pixels, loss, kind(strength=0.0), judges={}):
        assert torch.equal(sample(pixels, "pixels", **noise), unguided)
    with guide(pixels, loss, kind(), judges={}) as log:
        guided = sample(pixels, "pixels", **noise)
    assert guided.isfinite().all() and not torch.equal(guided, unguided)
    assert len(log.entries) >= 4 and log.skipped == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", [MPGD(), DPS()], ids=["MPGD", "DPS"])
def test_latents_are_guided_in_every_precision(
    device: str, pocket: DreamSim, reference: Tensor, dtype: torch.dtype, method: Any
) -> None:
    pipe = pocket_pipeline("latents", device, dtype)
    unguided = sample(pipe, "latents")
    with guide(pipe, pocket.target(reference), method, judges={}) as log:
        guided = sample(pipe, "latents")
    assert guided.isfinite().all() and not torch.equal(guided, unguided) and log.skipped == 0


@pytest.mark.parametrize("method", [MPGD(), DPS()], ids=["MPGD", "DPS"])
def test_an_offloaded_pipeline_is_guided_as_one_on_the_device(
    device: str, pocket: DreamSim, reference: Tensor, method: Any
) -> None:
    if device == "cpu":
        pytest.skip("offloading needs an accelerator")
    loss, images = pocket.target(reference), []
    for offloaded in (False, True):
        pipe = pocket_pipeline("latents", None if offloaded else device)
        if offloaded:
            pipe.enable_model_cpu_offload()
        with guide(pipe, loss, method, judges={}):
            images.append(sample(pipe, "latents").float().cpu())
    torch.testing.assert_close(images[0], images[1], atol=5e-2, rtol=0)


def test_a_whole_pipeline_is_differentiable(device: str, pocket: DreamSim, reference: Tensor) -> None:
    pipe = pocket_pipeline("latents", device)
    size = pipe.unet.config.sample_size
    latents = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    with differentiable(pipe):
        images = sample(pipe, "latents", steps=2, latents=latents)
        pocket.target(reference)(images).sum().backward()
    assert latents.grad is not None and latents.grad.isfinite().all() and latents.grad.abs().max() > 0
