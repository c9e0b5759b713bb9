"""Attacks on a GPU: the random start of the CPU, the ball, and a distance that rises as on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.evaluation import Attack, pgd

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("attack", [Attack("linf", 4 / 255), Attack("l2", 1.0)], ids=lambda attack: attack.name)
def test_an_attack_rises_as_on_the_cpu(pocket: DreamSim, images: Tensor, reference: Tensor, attack: Attack) -> None:
    attacked = pgd(pocket.target(reference), images, attack)
    on_cpu = pgd(DreamSim("pocket", device="cpu").target(reference.cpu()), images.cpu(), attack)
    assert attacked.images.device == images.device and bool(attacked.has_gradient.all())
    assert torch.allclose(attacked.distance.cpu(), on_cpu.distance, rtol=0.1)  # signs of tiny gradients differ
    change = (attacked.images - images).flatten(1)
    length = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
    assert float(length.max()) <= attack.radius * (1 + 1e-5)
    assert float(attacked.images.min()) >= 0 and float(attacked.images.max()) <= 1
