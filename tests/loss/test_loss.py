"""The algebra of losses: sums, weights, schedules and terms."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import Loss, PairLoss
from dreamsim_guidance.schedule import Constant, Cosine, Linear, Piecewise, Schedule


class Brightness(Loss):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1)


class Contrast(Loss):
    name = "spread"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.flatten(1).var(1)


class Difference(PairLoss):
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square().flatten(1).mean(1)


def mean_red(images: Tensor) -> Tensor:
    return images[:, 0].flatten(1).mean(1)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 3, 8, 8)


a, b = Brightness(), Contrast()

IDENTITIES: dict[str, tuple[Callable[[], Loss], Callable[[Tensor, Tensor], Tensor]]] = {
    "a + b": (lambda: a + b, lambda p, q: p + q),
    "a - b": (lambda: a - b, lambda p, q: p - q),
    "-a": (lambda: -a, lambda p, q: -p),
    "2 * a": (lambda: 2 * a, lambda p, q: 2 * p),
    "a * 0.5": (lambda: a * 0.5, lambda p, q: 0.5 * p),
    "a / 4": (lambda: a / 4, lambda p, q: p / 4),
    "sum([a, b])": (lambda: sum([a, b]), lambda p, q: p + q),  # type: ignore[arg-type, return-value]
    "a + 0": (lambda: a + 0, lambda p, q: p),
    "3 * (a + 2 * b)": (lambda: 3 * (a + 2 * b), lambda p, q: 3 * p + 6 * q),
    "a - (a - b)": (lambda: a - (a - b), lambda p, q: q),
    "numpy number * a": (lambda: np.float64(0.5) * a, lambda p, q: 0.5 * p),
    "numpy float32 * a": (lambda: np.float32(0.5) * a, lambda p, q: 0.5 * p),
    "named sum": (lambda: a + 2 * (a + b).named("both"), lambda p, q: 3 * p + 2 * q),
    "a / numpy number": (lambda: a / np.float32(4), lambda p, q: p / 4),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_the_algebra_is_that_of_numbers(name: str, x: Tensor) -> None:
    loss, expected = IDENTITIES[name]
    assert isinstance(loss(), Loss)
    torch.testing.assert_close(loss()(x), expected(a(x), b(x)))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_of_one_is_not_special(batch: int) -> None:
    assert (a + 2 * b)(torch.rand(batch, 3, 8, 8)).shape == (batch,)


def test_weighted_terms_sum_to_the_total(x: Tensor) -> None:
    loss = a + 0.1 * b - 2 * (a + b).named("both")
    total, terms = loss.value_and_terms(x)
    assert loss.weights == {"brightness": 1.0, "spread": 0.1, "both": -2.0}
    torch.testing.assert_close(sum(loss.weights[k] * v for k, v in terms.items()), total)
    torch.testing.assert_close(total, loss(x))


def test_each_term_is_evaluated_once(x: Tensor) -> None:
    counted = Contrast()
    (a + 0.3 * counted).value_and_terms(x)
    assert counted.calls == 1


def test_logged_terms_keep_no_graph_and_the_total_does(x: Tensor) -> None:
    total, terms = (a + b).value_and_terms(x.requires_grad_())
    assert total.requires_grad
    assert not any(term.requires_grad for term in terms.values())
    assert all(term.requires_grad for term in (a + b).terms(x).values())


def test_a_single_loss_has_itself_as_its_only_term(x: Tensor) -> None:
    total, terms = b.value_and_terms(x)
    assert list(terms) == ["spread"]
    assert torch.equal(total, terms["spread"])


def test_the_gradient_is_the_weighted_sum_of_the_gradients(x: Tensor) -> None:
    def gradient(loss: Loss) -> Tensor:
        return torch.autograd.grad(loss(leaf).sum(), leaf)[0]

    leaf = x.double().requires_grad_()
    torch.testing.assert_close(gradient(a - 0.5 * b), gradient(a) - 0.5 * gradient(b))
    assert torch.autograd.gradcheck(a - 0.5 * b, (leaf,))


def test_equal_names_get_numbers() -> None:
    assert list((a + a + a).weights) == ["brightness", "brightness_2", "brightness_3"]
    assert list((a + a.named("brightness_2") + a).weights) == ["brightness", "brightness_2", "brightness_3"]
    assert list(((a + a) + (a + a)).weights) == ["brightness", "brightness_2", "brightness_3", "brightness_2_2"]


def test_naming_a_loss_leaves_the_original_unchanged(x: Tensor) -> None:
    style = a.named("style")
    assert (style.weights, a.weights) == ({"style": 1.0}, {"brightness": 1.0})
    torch.testing.assert_close(style(x), a(x))


def test_the_sum_is_readable() -> None:
    assert repr(a + 0.1 * b - a.named("style") / 2) == "brightness + 0.1 * spread - 0.5 * style"
    assert repr(-a) == "-brightness"
    assert repr(Linear(0, 1, 10) * a + b) == "Linear(start=0, stop=1, steps=10) * brightness + spread"


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), {0: 0.3, 1000: 0.3}),
        (Linear(1, 0, steps=10), {0: 1.0, 5: 0.5, 10: 0.0, 99: 0.0}),
        (Cosine(1, 0, steps=10), {0: 1.0, 5: 0.5, 10: 0.0, 99: 0.0}),
        (Cosine(0.2, 1.0, steps=4), {0: 0.2, 2: 0.6, 4: 1.0}),
        (Piecewise((10, 0.0), (20, 1.0), (30, 0.5)), {0: 0.0, 10: 0.0, 15: 0.5, 20: 1.0, 25: 0.75, 40: 0.5}),
        (2 * Linear(0, 1, 10), {5: 1.0}),
        (Linear(0, 1, 10) / 2, {10: 0.5}),
        (-Linear(0, 1, 10), {10: -1.0}),
        (Linear(0, 1, 10) * Linear(1, 0, 10), {0: 0.0, 5: 0.25, 10: 0.0}),
        (2 * Constant(3), {0: 6.0}),
    ],
    ids=str,
)
def test_a_schedule_has_its_values(schedule: Schedule, values: dict[int, float]) -> None:
    assert {step: schedule(step) for step in values} == pytest.approx(values)


def test_a_scheduled_weight_follows_the_step(x: Tensor) -> None:
    loss = a + 2 * (Linear(0, 1, steps=10) * b)
    for step in (0, 3, 10):
        torch.testing.assert_close(loss.at(step)(x), a(x) + 0.2 * step * b(x))
        assert loss.at(step).weights["spread"] == pytest.approx(0.2 * step)


def test_a_schedule_multiplies_from_both_sides_and_reaches_named_sums(x: Tensor) -> None:
    inner = (a + b * Linear(0, 1, 10)).named("inner")
    loss = inner * Constant(0.5)
    torch.testing.assert_close(loss.at(4)(x), 0.5 * (a(x) + 0.4 * b(x)))


def test_without_a_step_the_weights_are_those_of_step_zero(x: Tensor) -> None:
    loss = a + Cosine(0.5, 0.1, steps=10) * b
    torch.testing.assert_close(loss(x), loss.at(0)(x))


def test_fixing_a_step_leaves_the_original_unchanged(x: Tensor) -> None:
    loss = Linear(0, 1, 10) * a
    loss.at(10)
    assert loss.weights == {"brightness": 0.0}
    plain = a + b
    assert plain.at(7) is plain


def test_a_function_becomes_a_loss(x: Tensor) -> None:
    loss = Loss.of(mean_red) + Loss.of(mean_red, name="red")
    assert list(loss.weights) == ["mean_red", "red"]
    torch.testing.assert_close(loss(x), 2 * mean_red(x))
    pair = PairLoss.of(lambda pred, target: mean_red(pred - target), name="shift")
    torch.testing.assert_close((2 * pair)(x, x), torch.zeros(4))


def test_a_module_becomes_a_loss_with_its_parameters(x: Tensor) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0))
    loss = a + Loss.of(module, name="critic")
    assert len(list(loss.parameters())) == 2
    torch.testing.assert_close(loss.terms(x)["critic"], module(x))


def test_pair_losses_have_the_same_algebra(x: Tensor) -> None:
    y, d = torch.rand_like(x), Difference()
    loss = d / 2 + Linear(0, 1, 10) * d.named("late")
    torch.testing.assert_close(loss.at(5)(x, y), d(x, y))
    total, terms = loss.at(5).value_and_terms(x, y)
    assert list(terms) == ["difference", "late"]
    torch.testing.assert_close(total, d(x, y))
    assert isinstance(loss, PairLoss)


def test_a_bound_sum_is_the_sum_of_the_bound_losses(x: Tensor) -> None:
    y, d = torch.rand_like(x), Difference()
    bound = (d + 0.5 * d.named("other")).against(y)
    assert isinstance(bound, Loss)
    assert bound.weights == {"difference": 1.0, "other": 0.5}
    torch.testing.assert_close(bound(x), 1.5 * d(x, y))


def test_a_regulariser_joins_a_pair_loss_through_the_prediction(x: Tensor) -> None:
    y, d = torch.rand_like(x), Difference()
    loss = d + Linear(0, 1, 10) * a.of_pred() + (0.5 * b).of_pred()
    torch.testing.assert_close(loss.at(10)(x, y), d(x, y) + a(x) + 0.5 * b(x))
    torch.testing.assert_close(loss.at(10).against(y)(x), d(x, y) + a(x) + 0.5 * b(x))


def test_losses_survive_pickle_and_deepcopy(x: Tensor) -> None:
    y = torch.rand_like(x)
    loss = a + Cosine(1, 0, 10) * b - 0.5 * Difference().against(y) + Piecewise((0, 1.0), (5, 2.0)) * Loss.of(mean_red)
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert repr(twin) == repr(loss)
        torch.testing.assert_close(twin.at(3)(x), loss.at(3)(x))


def test_the_reference_moves_with_the_loss_and_stays_out_of_the_checkpoint(x: Tensor) -> None:
    loss = (a + Difference().against(torch.rand_like(x))).to(torch.float64)
    assert loss(x.double()).dtype == torch.float64
    assert not loss.state_dict()


@pytest.mark.usefixtures("unchecked")
def test_a_sum_compiles_without_breaks(x: Tensor) -> None:
    loss = (a + Linear(0, 1, 10) * b).at(5)
    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(x), loss(x))
