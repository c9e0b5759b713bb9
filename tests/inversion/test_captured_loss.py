"""A loss that is recorded as a CUDA graph serves an inversion: here a tape of its operations stands in for the graph."""

from __future__ import annotations

import torch
from tape_recorder import TapeRecorder
from torch import Tensor

from dreamsim_guidance import DreamSim, invert
from dreamsim_guidance.losses import TotalVariation


def test_an_inversion_with_a_captured_loss_gives_the_same_result(metric: DreamSim) -> None:
    basis = torch.randn(6, 3 * 24 * 24, generator=torch.Generator().manual_seed(0)) / 3
    reference = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))

    def generator(z: Tensor) -> Tensor:
        return (z @ basis).view(-1, 3, 24, 24).sigmoid()

    def prior(n: int, random: torch.Generator) -> Tensor:
        return torch.randn(n, 6, generator=random)

    recorder, losses = TapeRecorder(), []
    for capture in (recorder, False):
        loss = metric.target(reference, capture=capture) + 0.1 * TotalVariation()
        losses.append(invert(loss, generator, prior, 20, scale=1.0, search=8, progress=False))
    captured, plain = losses
    assert recorder.recorded >= 3  # the search, and the starts that halving leaves
    assert torch.allclose(captured.history["loss"], plain.history["loss"], atol=1e-6)
    assert torch.allclose(captured.images, plain.images, atol=1e-5)
