"""Noise of a pipeline on a GPU: the CPU's images and gradients, half precision, and a run that lowers the distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim

pytest.importorskip("diffusers")

from dreamsim_guidance.inversion import Noise, invert
from dreamsim_guidance.losses import DenoisingError
from dreamsim_guidance.pocket import load_pocket

pytestmark = pytest.mark.gpu

CALL = {"prompt": "two large red stars in a row, on a blue background", "num_inference_steps": 3, "guidance_scale": 2.0}


def pocket_noise(device: str, dtype: torch.dtype = torch.float32, checkpointing: bool = True) -> Noise:
    return Noise(load_pocket("latents").to(device, dtype), checkpointing=checkpointing, **CALL)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_images_and_gradients_are_those_of_the_cpu(device: str, checkpointing: bool) -> None:
    results = []
    for place in ("cpu", device):
        through = pocket_noise(place, checkpointing=checkpointing)
        latents = through.sample(2, torch.Generator().manual_seed(0)).requires_grad_()
        images = through(latents)
        (gradient,) = torch.autograd.grad(images.square().mean(), latents)
        results.append((images.detach().cpu(), gradient.cpu()))
    (images, gradient), (others, other_gradient) = results
    assert torch.allclose(images, others, atol=2e-2)  # convolutions of a GPU may use TF32
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), other_gradient.flatten(), dim=0) > 0.99


def test_noise_of_a_half_precision_pipeline_is_optimised(device: str, pocket: DreamSim, reference: Tensor) -> None:
    through = pocket_noise(device, torch.bfloat16)
    result = invert(pocket.target(reference), through, steps=8, search=8, restarts=1, progress=False)
    assert result.leaves["leaf"].dtype == torch.float32
    assert float(result.loss) < float(result.history["loss"][0])


def test_the_denoising_error_is_that_of_the_cpu(device: str, images: Tensor) -> None:
    values = []
    for place in ("cpu", device):
        loss = DenoisingError(load_pocket("latents").to(place), **{**CALL, "num_inference_steps": 20})
        values.append(loss(images.to(place)).cpu())
    assert torch.allclose(*values, rtol=2e-2)
