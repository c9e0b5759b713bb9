"""Convolutional towers, layers, maps and their adapters on a GPU: the CPU's distances and gradients, captured and in halves."""

from __future__ import annotations

import pytest
import torch

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric import BranchConfig, Ensemble

pytestmark = pytest.mark.gpu

CNN = BranchConfig("cnn", "test_resnet", image_size=64, layers=(0, 2), weight=1.0)
VIT = BranchConfig("vit", "test_vit", image_size=64, layers=(0, -1), weight=2.0)


def metric(spatial: bool) -> DreamSim:
    torch.manual_seed(0)
    configs = [BranchConfig(**{**vars(config), "spatial": spatial}) for config in (CNN, VIT)]
    return DreamSim(Ensemble(configs), device="cpu")


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("capture", [False, True])
def test_distances_and_gradients_are_those_of_the_cpu(device: str, spatial: bool, capture: bool) -> None:
    x, y = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    results = []
    for place in ("cpu", device):
        images = x.to(place).requires_grad_()
        target = metric(spatial).to(place).target(y.to(place), capture=capture and place != "cpu")
        distance = target(images)
        (gradient,) = torch.autograd.grad(distance.sum(), images)
        results.append((distance.detach().cpu(), gradient.cpu()))
    (distance, gradient), (other, other_gradient) = results
    assert torch.allclose(distance, other, atol=5e-3)  # convolutions of a GPU may use TF32
    assert torch.nn.functional.cosine_similarity(gradient.flatten(), other_gradient.flatten(), dim=0) > 0.99


def test_an_adapter_on_convolutions_folds_and_is_chosen_per_call(device: str) -> None:
    live = metric(False).to(device)
    live.attach_adapter(rank=2, name="first")
    for name, parameter in live.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.05)
    x, y = torch.rand(2, 3, 64, 64, device=device), torch.rand(2, 3, 64, 64, device=device)
    chosen = live(x, y, adapters=["first", None])
    live.set_adapter("first")
    assert torch.allclose(live(x, y)[0], chosen[0], atol=5e-3)
    assert torch.allclose(live.fold()(x, y)[0], chosen[0], atol=5e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_in_half_precision_are_near(device: str, dtype: torch.dtype) -> None:
    x, y = torch.rand(2, 3, 64, 64, device=device), torch.rand(2, 3, 64, 64, device=device)
    whole, half = metric(True).to(device), metric(True).to(device, dtype)
    assert torch.allclose(half(x, y), whole(x, y), atol=3e-2)
