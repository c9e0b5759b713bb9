"""Masks confine the comparison, and patch variants give a map of distances."""

import copy

import pytest
import torch
from conftest import TOLERANCE
from torch import Tensor

from dreamsim_guidance import DreamSim


def pair(batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, 40, 52, dtype=dtype), torch.rand(batch, 3, 30, 30, dtype=dtype)


def test_a_mask_of_ones_changes_nothing(metric: DreamSim, patch_metric: DreamSim) -> None:
    x, y = pair()
    for model in (metric, patch_metric):
        assert torch.allclose(model(x, y, torch.ones(1, 1, 16, 16)), model(x, y), atol=TOLERANCE[torch.float32])
        masked = model.target(y, mask=torch.ones(1, 1, 30, 30))(x)
        assert torch.allclose(masked, model(x, y), atol=TOLERANCE[torch.float32])


def test_what_the_mask_leaves_out_has_no_influence(metric: DreamSim, patch_metric: DreamSim) -> None:
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 4:20, 8:24] = 1
    other = torch.where(mask.bool(), x, torch.rand_like(x))
    for model in (metric, patch_metric):
        assert torch.equal(model(x, y, mask), model(other, y, mask))
        assert not torch.allclose(model(x, y), model(other, y), atol=1e-4)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(model(x, y, mask).sum(), x)
        assert (gradient * (1 - mask)).abs().max() == 0
        assert (gradient * mask).abs().max() > 0
        x.requires_grad_(False)


def test_bad_masks_are_refused(metric: DreamSim, unchecked: None) -> None:
    x, y = pair()
    for mask, message in (
        (torch.ones(2, 32, 32), r"a mask must have shape \(1 or 2, 1, h, w\)"),
        (torch.ones(3, 1, 32, 32), r"a mask must have shape \(1 or 2, 1, h, w\)"),
        (torch.full((1, 1, 32, 32), 255.0), r"the mask must lie in \[0, 1\]"),
        (torch.zeros(1, 1, 32, 32), "leaves out every pixel"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(x, y, mask)


def test_masks_of_another_size_work_in_half_precision(metric: DreamSim) -> None:
    x, y, mask = torch.rand(1, 3, 40, 30), torch.rand(1, 3, 40, 30), torch.ones(1, 1, 20, 10)
    for dtype in (torch.bfloat16, torch.float16):
        distance = copy.deepcopy(metric).to(dtype)(x.to(dtype), y.to(dtype), mask)
        assert abs(distance - metric(x, y)).item() < 0.05


def test_many_references_share_one_mask(metric: DreamSim) -> None:
    references, masks = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    with pytest.raises(ValueError, match="every image meets every reference under one mask, got 2 masks"):
        metric.target(references, mask=masks, reduction="mean")
    assert metric.target(references, mask=masks[:1], reduction="min")(torch.rand(3, 3, 32, 32)).shape == (3,)


def test_the_distance_map_is_the_distance_of_patches(patch_metric: DreamSim) -> None:
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    distances = patch_metric.distance_map(x, y)
    a, b = patch_metric.embed(x)[:, 1:], patch_metric.embed(y)[:, 1:]
    assert distances.shape == (2, 4, 4)
    assert torch.allclose(distances.flatten(1), 1 - torch.cosine_similarity(a, b, dim=-1), atol=1e-6)
    assert torch.equal(patch_metric.distance_map(x, x), torch.zeros(2, 4, 4))


def test_the_distance_map_follows_the_grid_of_the_image(patch_metric: DreamSim) -> None:
    patch_metric.resize = False
    x, y = torch.rand(1, 3, 32, 56), torch.rand(1, 3, 32, 56)
    assert patch_metric.distance_map(x, y).shape == (1, 4, 7)
    with pytest.raises(ValueError, match="one patch grid"):
        patch_metric.distance_map(x, torch.rand(1, 3, 32, 32))


def test_class_token_metrics_have_no_map(metric: DreamSim) -> None:
    with pytest.raises(ValueError, match="a distance map needs maps or patch tokens"):
        metric.distance_map(*pair())


def test_patch_distance_pools_tokens_also_on_grids_that_are_not_square(patch_metric: DreamSim) -> None:
    # the original reshapes to a square grid here and scrambles channels; the mean over all patches is meant
    patch_metric.resize = False
    x, y = torch.rand(1, 3, 32, 72), torch.rand(1, 3, 32, 72)
    a, b = (patch_metric.embed(images) for images in (x, y))
    a, b = (torch.cat([e[:, 0], e[:, 1:].mean(1)], dim=-1) for e in (a, b))
    assert torch.allclose(patch_metric(x, y), 1 - torch.cosine_similarity(a, b), atol=1e-6)
