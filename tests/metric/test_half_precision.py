"""Half precision: products in float16 or bfloat16, everything between them in float32, and gradients that do not underflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import lively, tiny_branches
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble

COSINE = {torch.float16: 0.9999, torch.bfloat16: 0.999}
DISTANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Relative to float32."""


@pytest.fixture
def exact() -> DreamSim:
    return DreamSim(lively(Ensemble(tiny_branches())))


def copy_of(metric: DreamSim, **options: Any) -> DreamSim:
    copied = DreamSim(Ensemble(tiny_branches()), **options)
    copied.load_state_dict(metric.state_dict())
    return copied


def pictures(count: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1)


def distance_and_gradient(metric: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0) -> tuple[Tensor, Tensor]:
    x, y = pictures(8).requires_grad_(), pictures(8, seed=1)
    distance = metric(x, y)
    (gradient,) = torch.autograd.grad(weight * distance.sum(), x)
    return distance.detach(), gradient / weight


def agree(
    exact: DreamSim,
    metric: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype,
    weight: float = 1.0,
    slack: float = 1.0,
) -> None:
    (d, g), (d2, g2) = distance_and_gradient(exact), distance_and_gradient(metric, weight)
    assert d2.dtype == g2.dtype == torch.float32
    assert ((d - d2).abs() <= slack * DISTANCE[dtype] * d).all()
    cosines = F.cosine_similarity(g.flatten(1), g2.flatten(1))
    assert cosines.min() >= COSINE[dtype], cosines


@pytest.mark.parametrize("dtype", COSINE)
def test_distances_and_gradients_are_close_to_those_of_float32(dtype: torch.dtype, exact: DreamSim) -> None:
    agree(exact, copy_of(exact, dtype=dtype), dtype)


@pytest.mark.parametrize("weight", [2.0**-20, 2.0**16])
def test_the_loss_may_be_weighted(weight: float, exact: DreamSim) -> None:
    agree(exact, copy_of(exact, dtype=torch.float16), torch.float16, weight)


def test_outlier_channels_as_of_trained_towers(exact: DreamSim) -> None:
    """Two channels of the stream some thirty times larger than the others, from the first block on."""
    with torch.no_grad():
        for branch in exact.ensemble.branches:
            branch.backbone.pos_embed[..., 3] += 20.0  # type: ignore[index, union-attr, operator]
            branch.backbone.blocks[0].mlp.fc2.bias[5] -= 30.0  # type: ignore[index, union-attr, operator]
    for dtype in COSINE:  # distances are ten times smaller here, as outliers are most of an embedding
        agree(exact, copy_of(exact, dtype=dtype), dtype, slack=3)


@pytest.mark.parametrize("dtype", COSINE)
def test_decisions_between_two_candidates_stay(dtype: torch.dtype, exact: DreamSim) -> None:
    half = copy_of(exact, dtype=dtype)
    reference, a, b = pictures(400), pictures(400, seed=1), pictures(400, seed=2)
    with torch.no_grad():
        answers = [metric(reference, a) < metric(reference, b) for metric in (exact, half)]
    assert (answers[0] != answers[1]).float().mean() <= (0.0025 if dtype == torch.float16 else 0.02)


@pytest.mark.parametrize("dtype", COSINE)
def test_autocast_keeps_the_stream_in_float32_too(dtype: torch.dtype, exact: DreamSim) -> None:
    def metric(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return exact(x, y)

    agree(exact, metric, dtype)


def test_patch_tokens_and_a_head_in_half_precision(patch_metric: DreamSim, exact: DreamSim) -> None:
    images = pictures(2)
    exact.attach_head(16)
    for metric in (patch_metric, exact):
        before = metric.embed(images)
        after = metric.half().embed(images)
        assert after.dtype == torch.float32 and (after - before).abs().max() < 4e-3


def test_images_in_float16_take_every_scale(exact: DreamSim) -> None:
    """Of the towers' own size, so that the gradient arrives in float16: its scale of 2^20 is beyond the range of that."""
    half, x, y = copy_of(exact, dtype=torch.float16), pictures(8)[..., :32, :32], pictures(8, seed=1)[..., :32, :32]
    gradients = []
    for metric, dtype in ((exact, torch.float32), (half, torch.float16)):
        leaf = x.to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(2.0**-10 * metric(leaf, y.to(dtype)).sum(), leaf)
        gradients.append(gradient.float().flatten())
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def test_second_derivatives_are_not_scaled(exact: DreamSim) -> None:
    half, y, direction = copy_of(exact, dtype=torch.float16), pictures(8, seed=1), pictures(8, seed=2) - 0.5
    slopes = []
    for metric in (exact, half):
        x = pictures(8).requires_grad_()
        (gradient,) = torch.autograd.grad(metric(x, y).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((gradient * direction).sum(), x, retain_graph=True)
        (again,) = torch.autograd.grad(metric(x, y).sum(), x)
        slopes.append((gradient.detach(), second, again))
    for ours, theirs in zip(*slopes, strict=True):
        assert F.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999
        assert 0.99 < ours.norm() / theirs.norm() < 1.01


def test_one_graph_may_be_differentiated_with_several_weights(exact: DreamSim) -> None:
    half = copy_of(exact, dtype=torch.float16)
    x, y = pictures(8).requires_grad_(), pictures(8, seed=1)
    distance = half(x, y)
    gradients = [torch.autograd.grad(w * distance.sum(), x, retain_graph=True)[0] / w for w in (1.0, 2.0**14, 2.0**-14)]
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=0, rtol=0)
    assert torch.equal(torch.autograd.grad(0 * distance.sum(), x)[0], torch.zeros_like(x))


def test_gradients_of_trained_weights_are_not_scaled(exact: DreamSim) -> None:
    images, y = pictures(8), pictures(8, seed=1)
    exact.attach_head(16)
    gradients = []
    for autocast in (False, True):
        exact.zero_grad()
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            distance = exact(images, y).sum()
        distance.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in exact.ensemble.head.parameters() if p.grad is not None]))  # type: ignore[union-attr]
    assert 0.98 < gradients[1].norm() / gradients[0].norm() < 1.02


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")  # of torch.func.jvp
def test_transforms_and_forward_mode_work_in_float16(exact: DreamSim) -> None:
    half, x, y = copy_of(exact, dtype=torch.float16), pictures(8), pictures(8, seed=1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    _, expected = distance_and_gradient(exact)
    gradient = torch.func.grad(lambda a: half(a, y).sum())(x)
    assert F.cosine_similarity(gradient.flatten(1), expected.flatten(1)).min() > 0.999
    rows = torch.func.vmap(lambda a, b: half(a[None], b[None])[0])(x, y)
    torch.testing.assert_close(rows, half(x, y), atol=1e-4, rtol=1e-2)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        change = torch.autograd.forward_ad.unpack_dual(half(dual, y)).tangent
    torch.testing.assert_close(change.sum(), (expected * direction).sum(), atol=1e-3, rtol=2e-2)
