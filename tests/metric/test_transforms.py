"""The metric under torch.func, forward-mode differentiation, and where there are shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from dreamsim_guidance import DreamSim
from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.metric.backbones import BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.preprocess import _cached_weights

# PyTorch's own, when it first needs its rules for forward mode
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is")

CLOSE: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-8}


@pytest.fixture(params=["class token", "patches", "folded", "mask"])
def case(
    request: pytest.FixtureRequest, metric: DreamSim, patch_metric: DreamSim
) -> tuple[DreamSim, Callable[[Tensor, Tensor], Tensor]]:
    """A metric in float64 and a distance `(b,)` that it gives."""
    if request.param == "mask":
        mask = torch.zeros(1, 1, 12, 10, dtype=torch.float64)
        mask[..., 2:9, 3:] = 1
        metric.double()
        return metric, lambda x, y: metric(x, y, mask)
    model = {"class token": metric, "patches": patch_metric, "folded": DreamSim("pocket", dtype=torch.float64)}[
        request.param
    ].double()
    return model, model


def images(batch: int = 2, height: int = 12, width: int = 10) -> Tensor:
    return 0.1 + 0.8 * torch.rand(batch, 3, height, width, dtype=torch.float64)


def gradient(distance: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(distance(leaf).sum(), leaf)[0]


def test_grad_is_the_gradient(case: Any) -> None:
    _, distance = case
    x, y = images(), images(1, 9, 9)
    inside = grad(lambda a: distance(a, y).sum())(x)
    torch.testing.assert_close(inside, gradient(lambda a: distance(a, y), x), **CLOSE)
    other = grad(lambda b: distance(x, b).sum())(y)
    torch.testing.assert_close(other, gradient(lambda b: distance(x, b), y), **CLOSE)


def test_vmap_is_the_loop_over_images_references_and_pairs(case: Any) -> None:
    _, distance = case
    x, y = images(3), images(3, 9, 9)
    loop = torch.stack([distance(x[i : i + 1], y[i : i + 1])[0] for i in range(3)])
    torch.testing.assert_close(vmap(lambda a: distance(a[None], y[:1])[0])(x), distance(x, y[:1]), **CLOSE)
    torch.testing.assert_close(vmap(lambda b: distance(x[:1], b[None])[0])(y), distance(x[:1], y), **CLOSE)
    torch.testing.assert_close(vmap(lambda a, b: distance(a[None], b[None])[0])(x, y), loop, **CLOSE)
    table = vmap(lambda a: vmap(lambda b: distance(a[None], b[None])[0])(y))(x)
    torch.testing.assert_close(table.diagonal(), loop, **CLOSE)


def test_a_target_can_be_vectorised_and_differentiated(case: Any) -> None:
    model, _ = case
    x, target = images(3), model.target(images(2, 9, 9), reduction="min")
    torch.testing.assert_close(vmap(lambda a: target(a[None])[0])(x), target(x), **CLOSE)
    each = vmap(grad(lambda a: target(a[None])[0]))(x)
    torch.testing.assert_close(each, gradient(target, x), **CLOSE)


def test_embeddings_can_be_vectorised(case: Any) -> None:
    model, _ = case
    x = images(3)
    torch.testing.assert_close(vmap(lambda a: model.embed(a[None])[0])(x), model.embed(x), **CLOSE)


def test_forward_and_reverse_jacobians_agree(case: Any) -> None:
    _, distance = case
    x, y = images(1, 4, 5), images(1, 9, 9)
    direction = torch.randn_like(x)

    def f(a: Tensor) -> Tensor:
        return distance(a, y)

    expected = gradient(f, x)
    torch.testing.assert_close(jacrev(f)(x)[0], expected, **CLOSE)
    torch.testing.assert_close(jacfwd(f)(x)[0], expected, **CLOSE)
    slope = (expected * direction).sum()
    torch.testing.assert_close(jvp(f, (x,), (direction,))[1][0], slope, **CLOSE)
    torch.testing.assert_close(vjp(f, x)[1](torch.ones(1, dtype=torch.float64))[0], expected, **CLOSE)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent[0], slope, **CLOSE)


def test_second_derivatives_agree_with_double_backward(case: Any) -> None:
    _, distance = case
    x, y = images(1, 3, 3), images(1, 9, 9)
    direction = torch.randn_like(x)

    def f(a: Tensor) -> Tensor:
        return distance(a, y).sum()

    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    (expected,) = torch.autograd.grad((first * direction).sum(), leaf)
    torch.testing.assert_close(jvp(grad(f), (x,), (direction,))[1], expected, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(grad(lambda a: (grad(f)(a) * direction).sum())(x), expected, atol=1e-8, rtol=1e-6)
    product = torch.tensordot(hessian(f)(x), direction, dims=4)
    torch.testing.assert_close(product, expected, atol=1e-8, rtol=1e-6)


def test_checkpointed_towers_can_be_transformed(metric: DreamSim) -> None:
    metric.double()
    x, y = images(), images(1)
    expected = gradient(lambda a: metric(a, y), x)
    for branch in metric.ensemble.branches:
        branch.backbone.set_grad_checkpointing(True)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(grad(lambda a: metric(a, y).sum())(x), expected, **CLOSE)


@pytest.mark.parametrize("stacked", [False, True])
def test_checkpointing_keeps_little_more_than_the_blocks_inputs(stacked: bool) -> None:
    size = {"embed_dim": 32, "depth": 12, "num_heads": 2, "patch_size": 8}
    branches = [BranchConfig(name, "vit_base_patch16_224", image_size=64, overrides=size) for name in ("a", "b")]
    metric = DreamSim(Ensemble(branches), stacked=stacked)
    x, y = torch.rand(2, 4, 3, 64, 64)
    target = metric.target(y)

    def peak() -> int:
        with Meter() as meter:
            gradient(target, x)
        return meter.peak

    gradient(target, x)  # makes tables
    whole = peak()
    for branch in metric.ensemble.branches:
        branch.backbone.set_grad_checkpointing(True)  # type: ignore[operator, union-attr]
    assert peak() < 0.4 * whole


@pytest.fixture
def fresh_weights() -> Iterator[None]:
    _cached_weights.cache_clear()
    yield
    _cached_weights.cache_clear()


def test_nothing_of_a_transform_outlives_it(metric: DreamSim, fresh_weights: None) -> None:
    """The weights of the resize are cached between calls; made inside a transform, they would belong to it."""
    x, y = images().float(), images(1).float()
    grad(lambda a: metric(a, y).sum())(x)
    vmap(lambda a: metric(a[None], y)[0])(x)
    assert metric(x, y).shape == (2,) and gradient(lambda a: metric(a, y), x).isfinite().all()


def test_functional_call_takes_the_parameters_of_a_folded_metric() -> None:
    metric, x = DreamSim("pocket"), images().float()
    parameters = dict(metric.named_parameters())
    twice = {name: 2 * value for name, value in parameters.items()}
    before = functional_call(metric, parameters, (x, x[:1]))
    assert not torch.allclose(functional_call(metric, twice, (x, x[:1])), before)
    assert torch.equal(metric(x, x[:1]), before)


def test_values_are_checked_inside_grad_and_shapes_inside_vmap(metric: DreamSim, unchecked: None) -> None:
    x = images().float()
    with pytest.raises(ValueError, match="use x / 255"):
        grad(lambda a: metric(a * 255, x).sum())(x)
    with pytest.raises(ValueError, match=r"use x.unsqueeze\(0\)"):
        vmap(lambda a: metric(a, x))(x)
