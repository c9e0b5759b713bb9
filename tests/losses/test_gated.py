"""`NoiseGate` and `Gated`: exact weights by noise level, values and gradients of the samples that count, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim, PairLoss
from dreamsim_guidance.losses import L1, MSE, Cosine, DreamSimLoss, Gated, NoiseGate


def test_a_threshold_counts_from_its_own_level_on() -> None:
    t = torch.tensor([0.0, 0.29999, 0.3, 1.0])
    assert NoiseGate(0.3)(t).tolist() == [0, 0, 1, 1]
    assert NoiseGate(0.3, 0.3)(t).tolist() == [0, 0, 1, 1]
    assert NoiseGate(0.0)(t).tolist() == [1, 1, 1, 1]


def test_a_ramp_rises_linearly() -> None:
    t = torch.tensor([0.1, 0.2, 0.3, 0.5, 0.6, 0.9], dtype=torch.float64)
    assert torch.allclose(NoiseGate(0.2, 0.6)(t), torch.tensor([0, 0, 0.25, 0.75, 1, 1], dtype=torch.float64))


@pytest.mark.parametrize(("start", "full"), [(-0.1, None), (1.1, None), (0.5, 0.4), (0.5, 1.2), (float("nan"), None)])
def test_levels_out_of_range_are_refused(start: float, full: float | None) -> None:
    with pytest.raises(ValueError, match="0 <= start <= full <= 1"):
        NoiseGate(start, full)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("gate", [0.3, NoiseGate(0.2, 0.9)])
def test_values_are_the_loss_times_the_weight(gate: NoiseGate | float, skip: bool) -> None:
    pred, target, t = torch.rand(5, 3, 8, 8, requires_grad=True), torch.rand(5, 3, 8, 8), torch.linspace(0, 1, 5)
    gated = Gated(MSE(), gate, skip=skip)
    weights = (gate if isinstance(gate, NoiseGate) else NoiseGate(gate))(t)
    values = gated.at_noise(t)(pred, target)
    assert torch.allclose(values, weights * MSE()(pred, target))
    (gradient,) = torch.autograd.grad(values.sum(), pred)
    (expected,) = torch.autograd.grad((weights * MSE()(pred, target)).sum(), pred)
    assert torch.allclose(gradient, expected)
    # a target of one image serves all
    assert torch.allclose(gated.at_noise(t)(pred, target[:1]), weights * MSE()(pred, target[:1]))


@pytest.mark.parametrize("skip", [True, False])
def test_normalised_the_mean_is_that_of_the_samples_that_count(skip: bool) -> None:
    pred, target, t = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8), torch.tensor([0.1, 0.5, 0.2, 0.9])
    value = Gated(MSE(), 0.3, normalise=True, skip=skip).at_noise(t)(pred, target).mean()
    assert torch.allclose(value, MSE()(pred, target)[[1, 3]].mean())


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_a_batch_in_which_nothing_counts_is_zero_with_a_gradient_of_zero(normalise: bool, skip: bool) -> None:
    pred = torch.rand(3, 3, 8, 8, requires_grad=True)
    values = Gated(MSE(), 0.3, normalise=normalise, skip=skip).at_noise(torch.zeros(3))(pred, torch.rand(3, 3, 8, 8))
    values.sum().backward()
    assert values.tolist() == [0, 0, 0] and pred.grad is not None and pred.grad.abs().max() == 0


def test_samples_that_do_not_count_are_not_evaluated_and_may_be_anything() -> None:
    sizes: list[int] = []

    def counting(pred: Tensor, target: Tensor) -> Tensor:
        sizes.append(len(pred))
        return (pred - target).square().flatten(1).mean(1)

    gated = Gated(PairLoss.of(counting), 0.5)
    gated.at_noise(torch.tensor([0.9, 0.1, 0.2]))(torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4))
    gated.at_noise(torch.zeros(3))(torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4))
    assert sizes == [1]


def test_it_is_one_term_of_a_sum_and_follows_schedules() -> None:
    pred, target, t = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.tensor([0.1, 0.8])
    loss = MSE() + Gated(Cosine(1.0, 0.0, steps=10) * L1(), 0.3).at_noise(t).named("perceptual")
    total, terms = loss.at(10).value_and_terms(pred, target)
    assert torch.allclose(total, MSE()(pred, target)) and terms["perceptual"].tolist() == [0, 0]
    total, terms = loss.at(0).value_and_terms(pred, target)
    assert torch.allclose(terms["perceptual"], torch.stack([torch.zeros(()), L1()(pred, target)[1]]))


def test_no_graph_of_the_noise_levels_or_of_the_target_is_kept() -> None:
    pred, target = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(2, 3, 8, 8, requires_grad=True)
    t = torch.tensor([0.4, 0.8], requires_grad=True)
    Gated(MSE(), NoiseGate(0.3, 0.9)).at_noise(t)(pred, target.detach()).sum().backward()
    assert t.grad is None and target.grad is None and pred.grad is not None


def test_dreamsim_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    gated = Gated(DreamSimLoss(DreamSim("pocket")), 0.3)
    pred = torch.rand(2, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        values = gated.at_noise(torch.tensor([0.1, 0.8]))(pred.bfloat16(), torch.rand(2, 3, 32, 32))
    values.sum().backward()
    assert values.dtype == torch.float32 and values[0] == 0 < values[1]
    assert pred.grad is not None and pred.grad[0].abs().max() == 0 < pred.grad[1].abs().max()


@pytest.mark.usefixtures("unchecked")
def test_levels_must_fit_the_batch() -> None:
    gated = Gated(MSE(), 0.3)
    with pytest.raises(ValueError, match=r"one level per sample, \(b,\)"):
        gated.at_noise(torch.rand(2, 1))
    with pytest.raises(ValueError, match="t has 2 levels for 3 images"):
        gated.at_noise(torch.rand(2))(torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4))
    with pytest.raises(TypeError, match="a pair loss"):
        Gated(lambda pred, target: pred)  # type: ignore[arg-type]
