"""Laws of the distance: symmetry, zero, gradients, batches, precisions; and what is refused."""

import pytest
import torch
from conftest import TOLERANCE, tiny_branches
from torch import Tensor

from dreamsim_guidance import DreamSim, Ensemble


def pair(batch: int = 2, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, 40, 52, dtype=dtype), torch.rand(batch, 3, 30, 30, dtype=dtype)


def test_distance_is_one_minus_cosine(metric: DreamSim) -> None:
    x, y = pair()
    expected = 1 - torch.cosine_similarity(metric.embed(x), metric.embed(y))
    assert torch.allclose(metric(x, y), expected, atol=1e-6)
    assert (metric(x, y) > 1e-3).all()


def test_distance_is_symmetric(metric: DreamSim) -> None:
    x, y = pair()
    assert torch.equal(metric(x, y), metric(y, x))


def test_distance_of_an_image_to_itself_is_exactly_zero(metric: DreamSim, patch_metric: DreamSim) -> None:
    x, _ = pair()
    assert torch.equal(metric(x, x), torch.zeros(2))
    assert torch.equal(patch_metric(x, x), torch.zeros(2))


def test_distance_is_never_negative_near_zero(metric: DreamSim) -> None:
    x, _ = pair(8)
    assert (metric(x, (x + 1e-6 * torch.randn_like(x)).clamp(0, 1)) >= 0).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_is_finite_for_identical_and_for_constant_images(metric: DreamSim, autocast: bool) -> None:
    for image in (torch.rand(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 50, 40)):
        x = image.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            distance = metric(x, image)
        distance.sum().backward()
        assert distance.dtype == torch.float32
        assert x.grad is not None and torch.isfinite(x.grad).all()


def test_gradient_is_finite_where_the_centred_embedding_vanishes(tiny_ensemble: Ensemble) -> None:
    for parameter in tiny_ensemble.parameters():
        parameter.data.zero_()
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    distance = DreamSim(tiny_ensemble)(x, torch.rand(1, 3, 32, 32))
    distance.sum().backward()
    assert torch.isfinite(distance).all()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("patches", [False, True])
def test_gradient_is_that_of_finite_differences(metric: DreamSim, patch_metric: DreamSim, patches: bool) -> None:
    model = (patch_metric if patches else metric).double()
    x = torch.rand(1, 3, 20, 24, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: model(x, y), x, fast_mode=True)


def test_gradient_can_be_differentiated_again(metric: DreamSim) -> None:
    metric.double()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: metric(x, y), x, fast_mode=True)


def test_the_distance_of_an_image_does_not_depend_on_its_batch(metric: DreamSim) -> None:
    x, y = pair(3)
    alone = torch.cat([metric(x[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.allclose(metric(x, y), alone, atol=TOLERANCE[torch.float32])


def test_one_reference_serves_a_batch_on_either_side(metric: DreamSim) -> None:
    x, y = pair(3)
    each = metric(x, y[:1].expand(3, -1, -1, -1))
    assert torch.allclose(metric(x, y[:1]), each, atol=TOLERANCE[torch.float32])
    assert torch.allclose(metric(y[:1], x), each, atol=TOLERANCE[torch.float32])


def test_order_of_branches_does_not_matter(tiny_ensemble: Ensemble) -> None:
    x, y = pair()
    turned = Ensemble(list(tiny_ensemble.branches)[::-1])  # type: ignore[arg-type]
    assert torch.allclose(DreamSim(tiny_ensemble)(x, y), DreamSim(turned)(x, y), atol=TOLERANCE[torch.float32])


def test_a_cached_target_is_the_recomputed_one(metric: DreamSim, patch_metric: DreamSim) -> None:
    for model in (metric, patch_metric):
        x, y = pair()
        x.requires_grad_()
        (direct,) = torch.autograd.grad(model(x, y).sum(), x)
        (cached,) = torch.autograd.grad(model.target(y)(x).sum(), x)
        assert torch.equal(model.target(y)(x), model(x, y))
        assert torch.equal(direct, cached)


def test_a_target_keeps_no_graph(metric: DreamSim) -> None:
    _, y = pair()
    assert not metric.target(y.requires_grad_()).directions.requires_grad


def test_a_target_adds_nothing_to_the_model_that_holds_it(metric: DreamSim) -> None:
    target = metric.target(torch.rand(1, 3, 32, 32))
    assert not list(target.parameters()) and not target.state_dict()
    assert target.double().metric.dtype == torch.float64


def test_many_references_reduce_to_mean_minimum_and_weighted_mean(metric: DreamSim) -> None:
    x, _ = pair(2)
    references = torch.rand(3, 3, 32, 32)
    table = torch.stack([metric(x, references[i : i + 1]) for i in range(3)], dim=1)
    close = {"atol": TOLERANCE[torch.float32]}
    assert torch.allclose(metric.target(references, reduction="mean")(x), table.mean(1), **close)
    assert torch.allclose(metric.target(references, reduction="min")(x), table.amin(1), **close)
    weighted = metric.target(references, reduction="mean", weights=[1.0, 0.0, 3.0])(x)
    assert torch.allclose(weighted, 0.25 * table[:, 0] + 0.75 * table[:, 2], **close)
    with pytest.raises(ValueError, match="got 3 references and 2 images; to compare with all"):
        metric.target(references)(x)
    with pytest.raises(ValueError, match="weights need reduction='mean'"):
        metric.target(references, weights=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="3 finite weights"):
        metric.target(references, reduction="mean", weights=[1.0, 1.0])


def test_references_of_different_sizes_come_as_a_list(metric: DreamSim) -> None:
    references, x = [torch.rand(1, 3, 40, 30), torch.rand(1, 3, 32, 64)], torch.rand(2, 3, 32, 32)
    expected = torch.stack([metric.target(reference)(x) for reference in references])
    torch.testing.assert_close(metric.target(references, reduction="mean")(x), expected.mean(0))
    torch.testing.assert_close(metric.target(references, reduction="min")(x), expected.amin(0))


def test_weighted_targets_stay_in_float32_under_autocast(metric: DreamSim) -> None:
    target = metric.target(torch.rand(2, 3, 32, 32), reduction="mean", weights=[1.0, 2.0])
    with torch.autocast("cpu", torch.bfloat16):
        assert target(torch.rand(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_module_works_in_other_precisions(metric: DreamSim, dtype: torch.dtype) -> None:
    x, y = pair()
    exact = metric(x, y)
    distance = metric.to(dtype)(x.to(dtype), y.to(dtype))
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.allclose(distance.float(), exact, atol=max(TOLERANCE[dtype], 1e-5))


def test_images_take_the_precision_of_the_weights(metric: DreamSim) -> None:
    x, y = pair()
    assert torch.allclose(metric(x.double(), y.double()), metric(x, y), atol=TOLERANCE[torch.float32])
    assert torch.allclose(metric.double()(x, y).float(), metric.float()(x, y), atol=TOLERANCE[torch.float32])


def test_weights_are_frozen_and_get_no_gradient(metric: DreamSim) -> None:
    x, y = pair()
    x.requires_grad_()
    metric(x, y).sum().backward()
    assert all(not p.requires_grad and p.grad is None for p in metric.parameters())
    assert not metric.training


def test_bad_images_are_refused_with_a_cure(metric: DreamSim, unchecked: None) -> None:
    x, y = pair()
    for wrong_image, error, message in (
        (x * 2 - 1, ValueError, r"x must lie in \[0, 1\], got \[-1.00, 1.00\]; use \(x \+ 1\) / 2 for images in"),
        (x * 255, ValueError, "use x / 255"),
        (x[0], ValueError, r"use x.unsqueeze\(0\)"),
        (x[:, :1], ValueError, "grey"),
        (torch.cat([x, x[:, :1]], 1), ValueError, "alpha"),
        ((x * 255).byte(), TypeError, r"use x.float\(\) / 255"),
        (x * torch.nan, ValueError, "NaN"),
        (x[:0], ValueError, "at least one image"),
        (torch.rand(3, 3, 8, 8), ValueError, "x and y must have one batch size, got 3 and 2"),
        (x.to("meta"), ValueError, "must be on one device, got meta and cpu"),
    ):
        with pytest.raises(error, match=message):
            metric(wrong_image, y)
    with pytest.raises(ValueError, match=r"the reference must lie in \[0, 1\]"):
        metric.target(y * 2 - 1)
    with pytest.raises(ValueError, match="unknown variant 'ensemble_v2'; known: clip_vitb32, dino_vitb16, "):
        DreamSim("ensemble_v2")


def test_the_number_of_images_smaller_than_a_patch_is_refused(metric: DreamSim) -> None:
    metric.resize = False
    with pytest.raises(ValueError, match="at least one patch"):
        metric(torch.rand(1, 3, 5, 5), torch.rand(1, 3, 32, 32))


def test_a_published_variant_builds_with_random_weights() -> None:
    model = DreamSim("clip_vitb32", pretrained=False)
    assert model.embed(torch.rand(1, 3, 30, 30)).shape == (1, 512)
    assert model.card["reference"] == {} and model.card["source"] == "random weights"


def test_an_ensemble_of_other_towers_is_a_metric() -> None:
    small = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    mixed = tiny_branches()[:1] + [
        type(tiny_branches()[0])("dinov3", "vit_base_patch16_dinov3", image_size=32, overrides=small),
        type(tiny_branches()[0])(
            "siglip", "vit_base_patch16_siglip_224", feature="pooled", image_size=48, overrides=small
        ),
        type(tiny_branches()[0])("convnext", "convnext_atto", feature="pooled", image_size=64),
    ]
    model = DreamSim(mixed, pretrained=False)
    x, y = pair()
    x.requires_grad_()
    model(x, y).sum().backward()
    assert model.embed(x).shape == (2, 32 + 32 + 32 + 320)
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0
