"""Losses on a GPU, in training under a gradient scaler, and the tuning of a metric in full and half precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from judged_pictures import write_judged_pictures
from tiny_tuning import adapter, last_weights
from torch import Tensor, nn

from dreamsim_guidance import DreamSim
from dreamsim_guidance import losses as all_losses
from dreamsim_guidance.losses import DreamSimLoss

pytestmark = pytest.mark.gpu


def networks() -> dict[str, nn.Module]:
    """The networks of LPIPS and DISTS with random weights; those whose package is not installed are missing."""
    made: dict[str, nn.Module] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision with a deprecated argument
        with suppress(ImportError):
            import lpips

            made["LPIPS"] = lpips.LPIPS(net="squeeze", pnet_rand=True, pretrained=False, verbose=False)
        with suppress(ImportError):
            import torchvision
            from torchmetrics.functional.image import dists

            layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(dists, "vgg16", lambda weights: SimpleNamespace(features=layers))
                made["DISTS"] = dists.DISTSNetwork()
    return made


def test_every_loss_has_a_finite_gradient(pocket: DreamSim, images: Tensor, reference: Tensor) -> None:
    ready: dict[str, Callable[[Tensor], Tensor]] = {
        name: getattr(all_losses, name)(reference) for name in ("L1", "L2", "MSE", "Charbonnier")
    }
    ready |= {
        "TotalVariation": all_losses.TotalVariation(),
        "DreamSimLoss": DreamSimLoss(pocket).against(reference),
        "MultiCrop": all_losses.MultiCrop(pocket, reference, [(0.0, 0.0, 0.5, 0.5), all_losses.FULL]),
        "Augmented": all_losses.Augmented(pocket, reference),
    }
    with suppress(ImportError):
        ready["SSIM"] = all_losses.SSIM(reference)
    for name, network in networks().items():
        ready[name] = getattr(all_losses, name)(reference, network=network.to(images.device))
    total = sum(ready.values(), start=pocket.target(reference))  # type: ignore[arg-type]
    for name, loss in {**ready, "sum": total}.items():
        leaf = images.clone().requires_grad_()
        values = loss(leaf)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
        assert values.shape == (3,) and values.device == images.device, name
        assert values.isfinite().all() and gradient.isfinite().all() and gradient.abs().max() > 0, name


def test_the_loss_trains_a_network_in_float16_under_a_gradient_scaler(
    device: str, pocket: DreamSim, images: Tensor
) -> None:
    torch.manual_seed(0)
    generator = nn.Conv2d(3, 3, 3, padding=1).to(device)
    loss, optimiser = DreamSimLoss(pocket), torch.optim.Adam(generator.parameters(), lr=3e-3)
    scaler = torch.amp.GradScaler(device)
    history = []
    for _ in range(15):
        with torch.autocast(device, torch.float16):
            value = loss(generator(images).sigmoid(), images).mean()
        optimiser.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimiser)
        scaler.update()
        history.append(value.item())
    assert all(torch.isfinite(torch.tensor(history))) and history[-1] < history[0]


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_an_adapter_is_tuned(device: str, precision: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"precision": precision, "steps": 4, "validate_every": 4}
    results = adapter(write_judged_pictures(tmp_path / "data", triplets=30), **changes).run(tmp_path / "run")
    assert torch.isfinite(torch.tensor(results["validation loss"]))
    weights = last_weights(tmp_path / "run")
    assert all(value.isfinite().all() for value in weights.values())
    assert any(value.abs().max() > 0 for name, value in weights.items() if "lora_B" in name)
