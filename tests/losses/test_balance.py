"""`GradientBalance`: its weight in closed form, over steps, across restarts, in half precision and in several processes."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import DreamSim
from dreamsim_guidance.losses import MSE, DreamSimLoss, GradientBalance


def losses(layer: Tensor, first: float = 6.0, second: float = 2.0) -> tuple[Tensor, Tensor]:
    """Two losses whose gradients at `layer` have these lengths."""
    direction = torch.ones_like(layer) / layer.numel() ** 0.5
    return first * (direction * layer).sum(), second * (direction * layer).sum()


def test_the_weight_is_the_ratio_of_the_gradients_lengths() -> None:
    layer = torch.rand(4, 3, requires_grad=True)
    weight = GradientBalance(eps=1e-6)(*losses(layer), layer)
    assert float(weight) == pytest.approx(3.0, rel=1e-5) and not weight.requires_grad
    assert float(GradientBalance(eps=1.0)(*losses(layer), layer)) == pytest.approx(2.0)


def test_the_ratio_of_a_linear_decoder_is_that_of_its_images_gradients() -> None:
    x, target = torch.rand(1, 5), torch.rand(1, 3)
    decoder = nn.Linear(5, 3, bias=False)
    y = decoder(x)
    first, second = (y - target).square().sum(), y.abs().sum()
    expected = (
        (2 * (y - target)).norm() / y.sign().norm()
    ).detach()  # the gradient at the weights is an outer product with x
    assert float(GradientBalance(eps=1e-9)(first, second, decoder.weight)) == pytest.approx(float(expected), rel=1e-5)


def test_weights_are_bounded_and_a_vanishing_second_gradient_gives_the_bound() -> None:
    layer = torch.rand(3, requires_grad=True)
    assert float(GradientBalance(largest=2.5)(*losses(layer), layer)) == 2.5
    assert float(GradientBalance()(*losses(layer, 6.0, 0.0), layer)) == 1e4
    assert float(GradientBalance()(*losses(layer, 0.0, 2.0), layer)) == 0


def test_the_average_starts_at_the_first_weight_and_follows_the_next() -> None:
    layer, balance = torch.rand(3, requires_grad=True), GradientBalance(momentum=0.75, eps=1e-9)
    weights = [float(balance(*losses(layer, first), layer)) for first in (8.0, 4.0, 4.0)]
    assert weights == pytest.approx([4.0, 0.75 * 4 + 0.25 * 2, 0.75 * 3.5 + 0.25 * 2], rel=1e-5)


def test_between_renewals_the_weight_stays() -> None:
    layer, balance = torch.rand(3, requires_grad=True), GradientBalance(every=3, eps=1e-9)
    assert [round(float(balance(*losses(layer, 2.0 * k), layer)), 4) for k in range(1, 6)] == [1, 1, 1, 4, 4]


def test_validation_and_infinite_gradients_leave_the_weight_as_it_is() -> None:
    layer, balance = torch.rand(3, requires_grad=True), GradientBalance(momentum=0.5, eps=1e-9)
    with torch.no_grad():
        assert float(balance(*losses(layer), layer)) == 1  # nothing is known yet
    assert float(balance(*losses(layer, torch.inf), layer)) == 1
    assert float(balance(*losses(layer), layer)) == pytest.approx(3)
    for first, second in ((torch.nan, 2.0), (6.0, torch.inf)):
        assert float(balance(*losses(layer, first, second), layer)) == pytest.approx(3)
    with torch.no_grad():
        assert float(balance(*losses(layer), layer)) == pytest.approx(3)


def test_a_restored_balance_goes_on_as_the_first() -> None:
    layer, whole, resumed = (
        torch.rand(3, requires_grad=True),
        GradientBalance(0.9, every=2),
        GradientBalance(0.9, every=2),
    )
    for k in range(1, 4):
        whole(*losses(layer, 2.0 * k), layer)
    resumed.load_state_dict(whole.state_dict())
    for k in range(4, 9):
        pair = losses(layer, 2.0 * k)
        assert torch.equal(whole(*pair, layer), resumed(*pair, layer))


def test_the_step_gets_its_own_gradient_and_no_graph_stays() -> None:
    """The gradients for the weight fill no `.grad`, and nothing of a step is alive after it."""
    model, balance = nn.Conv2d(3, 3, 3, padding=1), GradientBalance(momentum=0.9)
    x = torch.rand(2, 3, 8, 8)
    y = model(x)
    pixels, absolute = (y - x).square().mean(), (y - x).abs().mean()
    weight = balance(pixels, absolute, model.weight)
    assert model.weight.grad is None and balance.weight.grad_fn is None
    (pixels + weight * absolute).backward()
    assert model.weight.grad is not None
    pair = [torch.autograd.grad(loss, model.weight, retain_graph=True)[0] for loss in _terms(model, x)]
    assert torch.allclose(model.weight.grad, pair[0] + weight * pair[1], atol=1e-6)
    alive = weakref.ref(y)
    del y, pixels, absolute
    gc.collect()
    assert alive() is None


def _terms(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = model(x)
    return (y - x).square().mean(), (y - x).abs().mean()


def test_a_weight_that_was_returned_does_not_change_later() -> None:
    layer, balance = torch.rand(3, requires_grad=True), GradientBalance(eps=1e-9)
    first = balance(*losses(layer), layer)
    balance(*losses(layer, 60.0), layer)
    assert float(first) == pytest.approx(3)


def test_perceptual_and_pixel_gradients_become_equal_under_autocast() -> None:
    decoder, balance = nn.Conv2d(4, 3, 3, padding=1), GradientBalance(eps=1e-12)
    perceptual, x = DreamSimLoss(DreamSim("pocket")), torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = decoder(torch.randn(2, 4, 32, 32)).sigmoid()
        pixels, distance = MSE()(y, x).mean(), perceptual(y, x).mean()
    weight = balance(pixels, distance, decoder.weight)
    first, second = (torch.autograd.grad(loss, decoder.weight, retain_graph=True)[0] for loss in (pixels, distance))
    assert float(first.norm()) == pytest.approx(float(weight * second.norm()), rel=1e-3)


def test_the_scale_of_a_gradient_scaler_does_not_change_the_weight() -> None:
    layer = torch.rand(3, requires_grad=True)
    plain, scaled = (GradientBalance()(*losses(layer), layer, loss_scale=scale) for scale in (1.0, 2.0**16))
    assert float(plain) == pytest.approx(float(scaled), rel=1e-6)


def test_losses_that_cannot_be_balanced_are_refused() -> None:
    layer, other = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"scalars, got \(3,\) and \(\); use .mean"):
        GradientBalance()(layer * 2, layer.sum(), layer)
    with pytest.raises(ValueError, match="does not reach the layer"):
        GradientBalance()(layer.sum(), other.sum(), layer)
    for options in ({"momentum": 1.0}, {"momentum": -0.1}, {"largest": 0.0}, {"eps": 0.0}, {"every": 0}):
        with pytest.raises(ValueError, match="must lie in"):
            GradientBalance(**options)  # type: ignore[arg-type]


def test_processes_share_the_weight_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, one after the other: what each would receive from the other is added by hand."""
    images, model = torch.rand(4, 3, 6, 6), nn.Conv2d(3, 3, 3)

    def of(part: Tensor) -> tuple[Tensor, Tensor]:
        y = model(part)
        return y.square().mean(), (y - 1).abs().mean()

    expected = GradientBalance()(*of(images), model.weight)
    first, second = images.split(2)
    received = [torch.autograd.grad(loss, model.weight, retain_graph=True)[0] for loss in of(second)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda gradient: gradient.add_(received.pop(0)))
    assert torch.allclose(GradientBalance()(*of(first), model.weight), expected, rtol=1e-5)
    assert not received
