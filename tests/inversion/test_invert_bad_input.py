"""What `invert` says of generators, losses and arguments that cannot work."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import Inversion, invert
from dreamsim_guidance.losses import MSE, TotalVariation
from dreamsim_guidance.schedule import Constant

Z = torch.zeros(2, 12)


def generator(z: Tensor) -> Tensor:
    return z.view(-1, 3, 2, 2).sigmoid()


def quick(through: Any = generator, init: Any = Z, loss: Any = None, steps: int = 30, **options: Any) -> Inversion:
    return invert(loss or TotalVariation(), through, init, steps, progress=False, **options)


@pytest.mark.parametrize(
    ("through", "message"),
    [
        (lambda z: 2 * generator(z - 3) - 1, r"must lie in \[0, 1\].*value_range=\(-1, 1\)"),
        (lambda z: 255 * generator(z), r"must lie in \[0, 1\].*use x / 255.*value_range"),
        (lambda z: generator(z) * torch.nan, "got NaN"),
        (lambda z: generator(z)[:, :1], r"the images of the generator must have 3 channels"),
        (lambda z: generator(z)[0], r"the images of the generator must have shape \(b, 3, h, w\)"),
        (lambda z: generator(z)[:1], "one image for each row of the leaf, got 1 for 2"),
    ],
)
def test_images_of_a_wrong_range_or_shape_are_refused_before_the_first_step(through: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(through)


@pytest.mark.usefixtures("unchecked")
def test_a_generator_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="the images of the generator must be a torch tensor"):
        quick(lambda z: (generator(z),))


def test_a_value_range_maps_the_images() -> None:
    result = quick(lambda z: 2 * generator(z) - 1, value_range=(-1.0, 1.0), steps=0)
    assert torch.allclose(result.images, generator(Z))


class Quantised(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return ((generator(z) * 255).byte()).float() / 255


def through_numpy(z: Tensor) -> Tensor:
    return torch.from_numpy(generator(z).detach().numpy())


def without_grad(z: Tensor) -> Tensor:
    with torch.no_grad():
        return generator(z)


@pytest.mark.parametrize(
    ("through", "where"),
    [
        (Quantised(), r"byte at .*test_invert_bad_input.py:\d+, .*generator\(z\) \* 255"),
        (through_numpy, r"detach at .*test_invert_bad_input.py:\d+, .*from_numpy"),
        (without_grad, r"(view|sigmoid) at .*test_invert_bad_input.py:\d+, .*sigmoid"),
    ],
    ids=["bytes", "numpy", "no_grad"],
)
def test_a_generator_without_a_gradient_is_told_where_its_graph_ends(through: Any, where: str) -> None:
    with pytest.raises(ValueError, match="the images do not depend on the parameters: the graph ends in .*" + where):
        quick(through)


def test_a_reference_of_another_size_is_resized_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    photo = torch.rand(1, 3, 5, 7)
    with caplog.at_level(logging.WARNING):
        result = quick(loss=3 * MSE(photo) + TotalVariation(), judges={"mse": MSE(photo)})
    assert "resized to the size of the images, 2 x 2" in caplog.text
    assert result.history["mse"][-1].mean() < result.history["mse"][0].mean()


def test_a_loss_that_becomes_nan_stops_its_sample_and_keeps_the_best_step(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def nan_for_the_first(x: Tensor) -> Tensor:
        calls.append(1)
        value = (x - 0.9).square().flatten(1).mean(1)
        return value * torch.tensor([torch.nan if len(calls) > 6 else 1.0, 1.0])

    with caplog.at_level(logging.WARNING):
        result = quick(loss=nan_for_the_first, steps=60, lr=0.1)
    assert result.best_step[0] == 5 and result.best_step[1] > 30 and result.images.isfinite().all()
    assert "the loss of samples [0] stopped being finite" in caplog.text


def test_all_samples_at_nan_end_the_run() -> None:
    calls: list[int] = []

    def nan_later(x: Tensor) -> Tensor:
        calls.append(1)
        return x.flatten(1).mean(1) * (torch.nan if len(calls) > 6 else 1.0)

    quick(loss=nan_later, steps=400)
    assert len(calls) < 60


def test_a_loss_that_is_never_finite_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match=r"samples \[0, 1\] was never finite"):
        quick(loss=lambda x: x.flatten(1).mean(1) * torch.nan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"search": 0}, "search must be at least 1, got 0"),
        ({"lr": -0.1}, "lr must be a number of at least 0"),
        ({"optimiser": "newton"}, "unknown optimiser 'newton'; known: adam, sgd, lbfgs"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": torch.nan}, "clip must be positive"),
        ({"clip": 1.0, "optimiser": "lbfgs"}, "not for L-BFGS"),
        ({"scale": 0.0}, "the scale of 'leaf' must be positive"),
        ({"init": None}, "init is missing"),
        ({"init": {}}, "no leaf"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**options)


def test_leaves_of_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="the leaf 'leaf' must be a floating-point tensor"):
        quick(init=Z.long())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("init", "options", "error", "message"),
    [
        ([0.0] * 12, {}, TypeError, "init must be a tensor .* got list"),
        (
            lambda n, random: [0.0] * n,
            {},
            TypeError,
            "the sampler must return a tensor or a mapping of tensors, got list",
        ),
        (lambda n, random: torch.zeros(2, 12), {}, ValueError, r"must return 256 rows of 'leaf', got shape \(2, 12\)"),
        (None, {"centre": 0.0, "scale": 1.0}, ValueError, "centre must be a tensor in the shape of one sample"),
        (Z, {"scale": {"z": 1.0}}, ValueError, "has 'z', but the leaves are leaf"),
        (Z, {"centre": {"z": 1.0}}, ValueError, "has 'z', but the leaves are leaf"),
        (Z, {"scale": torch.ones(11)}, ValueError, r"the scale of 'leaf' must broadcast .* \(12,\), got shape \(11,\)"),
        (Z, {"centre": torch.ones(1, 2, 12)}, ValueError, "the centre of 'leaf' must broadcast"),
    ],
)
def test_a_start_or_prior_of_a_wrong_form_is_refused_by_name(
    init: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        quick(init=init, **options)


def test_gradients_are_computed_under_no_grad_and_refused_in_inference_mode() -> None:
    with torch.no_grad():
        result = quick()
    assert torch.equal(result.images, quick().images)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        quick()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_leaves_and_images_lose_no_small_steps(dtype: torch.dtype) -> None:
    seen: set[torch.dtype] = set()

    def through(z: Tensor) -> Tensor:
        seen.add(z.dtype)
        return generator(z)

    target = MSE(torch.full((2, 3, 2, 2), 0.9))
    start = torch.ones(2, 12, dtype=dtype)
    result = quick(through, start, target, steps=40, lr=Constant(1e-3))
    assert seen == {dtype}
    assert result.images.dtype == result.leaves["leaf"].dtype == torch.float32
    # steps of 1e-3 from 1 would all be rounded away in bfloat16
    assert float(result.leaves["leaf"].min()) > 1.02
    assert torch.equal(result.images, generator(result.leaves["leaf"].to(dtype)).float())


def test_a_loss_of_whole_numbers_is_refused() -> None:
    with pytest.raises(TypeError, match="floating-point values, got"):
        quick(loss=lambda images: torch.zeros(len(images), dtype=torch.int64))
