"""Operands, weights, terms and schedules that do not make a loss are refused with advice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import Loss, PairLoss
from dreamsim_guidance.schedule import Cosine, Linear, Piecewise, Schedule


class Brightness(Loss):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1)


class Difference(PairLoss):
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square().flatten(1).mean(1)


class Scalar(Loss):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean()


def mean_red(images: Tensor) -> Tensor:
    return images[:, 0].flatten(1).mean(1)


a = Brightness()

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a + 1": (lambda: a + 1, "1 cannot be added to a Loss; a constant has no gradient"),
    "1 - a": (lambda: 1 - a, "a constant has no gradient"),
    "a + 'l1'": (lambda: a + "l1", "'l1' cannot be added to a Loss; add another Loss"),
    "a + None": (lambda: a + None, "None cannot be added to a Loss"),
    "a + function": (lambda: a + mean_red, r"wrap it, Loss.of\(function, name='...'\)"),
    "function + a": (lambda: mean_red + a, r"wrap it, Loss.of"),
    "a + module": (lambda: a + nn.Identity(), r"Identity cannot be added to a Loss; wrap it"),
    "a + pair": (lambda: a + Difference(), r"bind the pair loss to its target first, pair.against\(reference\)"),
    "pair + a": (lambda: Difference() + a, r"use its pair form, loss.of_pred\(\)"),
    "a * a": (lambda: a * a, "a loss is scaled by a number or a Schedule, got Brightness"),
    "a * tensor": (lambda: a * torch.tensor(2.0), r"got Tensor; use float\(weight\)"),
    "tensor * a": (lambda: torch.tensor(2.0) * a, r"got Tensor; use float\(weight\)"),
    "'2' * a": (lambda: "2" * a, "for a weight that changes use a Schedule"),
    "a * function": (lambda: a * (lambda step: 1.0), "for a weight that changes use a Schedule"),
    "a * True": (lambda: a * True, "a loss is scaled by a number"),
    "a / a": (lambda: a / a, "a loss is divided by a number"),
    "1 / a": (lambda: 1 / a, "unsupported operand"),
    "named nothing": (lambda: a.named(""), "a loss is named by a non-empty string"),
    "of a number": (lambda: Loss.of(3), "Loss.of needs a function"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_operands_that_are_not_losses_are_refused_with_advice(name: str) -> None:
    expression, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        expression()


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_must_be_finite(weight: float) -> None:
    with pytest.raises(ValueError, match="must be scaled by a finite number, got"):
        weight * a


def test_a_metric_is_not_a_loss_and_the_message_says_how_to_make_one() -> None:
    class Metric(nn.Module):
        def target(self, images: Tensor) -> Loss:
            return a

    with pytest.raises(TypeError, match=r"bind it to its reference first, metric.target\(image\)"):
        a + Metric()


@pytest.mark.usefixtures("unchecked")
def test_a_term_must_return_one_value_per_image() -> None:
    x = torch.rand(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"the term 'scalar' must return one value per image, shape \(4,\), got \(\)"):
        (a + Scalar())(x)
    with pytest.raises(ValueError, match="the term 'scalar' must return"):
        Scalar().value_and_terms(x)
    with pytest.raises(ValueError, match=r"got \(4, 3, 8, 8\); reduce over everything but the batch"):
        Loss.of(nn.Identity())(x)
    with pytest.raises(TypeError, match="the term 'three' must return a tensor"):
        Loss.of(lambda images: 3, name="three")(x)


@pytest.mark.usefixtures("unchecked")
def test_a_reference_in_another_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reference must lie in \[0, 1\], got \[-1.00, 1.00\]; use \(x \+ 1\) / 2"):
        Difference().against(torch.linspace(-1, 1, 192).view(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0, 1, 0), "steps must be at least 1, got 0"),
        (lambda: Cosine(0, 1, -3), "steps must be at least 1, got -3"),
        (lambda: Piecewise(), "with rising steps"),
        (lambda: Piecewise((5, 1.0), (5, 2.0)), "with rising steps"),
    ],
)
def test_an_impossible_schedule_is_refused(make: Callable[[], Schedule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
