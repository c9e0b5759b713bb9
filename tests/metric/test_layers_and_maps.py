"""Layers, maps and explicit weights of branches, against references written out here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import TINY, lively, tiny_branches
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.checkpoints.model_file import read_model
from dreamsim_guidance.metric import Branch, BranchConfig, Ensemble

VIT = BranchConfig("vit", "vit_base_patch16_224", image_size=32, overrides={**TINY, "depth": 3})
CNN = BranchConfig("cnn", "test_resnet", image_size=64)


def branch(config: BranchConfig, **options: Any) -> Branch:
    """A branch in float64 whose random weights make every layer matter."""
    torch.manual_seed(0)
    built = Branch(replace(config, **options))
    if config is VIT:
        lively(built)  # type: ignore[arg-type]
    return built.double().eval()


def metric(config: BranchConfig, **options: Any) -> DreamSim:
    return DreamSim(Ensemble([branch(config, **options)]), dtype=torch.float64)


def images(count: int = 2, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, dtype=torch.float64)


def timm_layers(config: BranchConfig, x: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
    """Maps of layers by timm alone, from the weights of the same branch."""
    tower = branch(config).backbone
    mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in (config.mean, config.std))
    return list(tower.forward_intermediates((x - mean) / std, indices=list(layers), intermediates_only=True))


@pytest.mark.parametrize(("config", "side", "layers"), [(VIT, 32, (0, 2)), (CNN, 64, (1, 3, 4))], ids=["vit", "cnn"])
def test_maps_are_compared_position_by_position(config: BranchConfig, side: int, layers: tuple[int, ...]) -> None:
    weights = (0.5, 2.0, 1.0)[: len(layers)]
    x, y = images(side=side), images(side=side)
    spatial = metric(config, layers=layers, layer_weights=weights, spatial=True)
    expected = torch.zeros(2, dtype=torch.float64)
    for weight, a, b in zip(weights, timm_layers(config, x, layers), timm_layers(config, y, layers), strict=True):
        places = 0.5 * (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1)
        expected += weight / sum(weights) * places.mean((1, 2))
    assert torch.allclose(spatial(x, y), expected, atol=1e-10)
    assert torch.allclose(spatial.target(y)(x), expected, atol=1e-10)


@pytest.mark.parametrize(("config", "side"), [(VIT, 32), (CNN, 64)], ids=["vit", "cnn"])
def test_the_map_of_one_layer_has_the_distance_as_its_mean(config: BranchConfig, side: int) -> None:
    spatial = metric(config, layers=(1,), spatial=True)
    x, y = images(side=side), images(side=side)
    places = spatial.distance_map(x, y)
    assert places.shape[1:] == timm_layers(config, x, (1,))[0].shape[2:]
    assert torch.allclose(places.mean((1, 2)), spatial(x, y), atol=1e-10)


def test_maps_of_several_layers_are_drawn_on_the_finest_grid() -> None:
    spatial = metric(CNN, layers=(1, 3), spatial=True)
    x, y = images(), images()
    fine, coarse = (metric(CNN, layers=(layer,), spatial=True).distance_map(x, y) for layer in (1, 3))
    enlarged = F.interpolate(coarse[:, None], fine.shape[1:], mode="bilinear")[:, 0]
    assert torch.allclose(spatial.distance_map(x, y), (fine + enlarged) / 2, atol=1e-10)


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_a_mask_chooses_positions_of_maps(config: BranchConfig) -> None:
    side = config.image_size
    spatial = metric(config, layers=(0,), spatial=True)
    x, y = images(1, side), images(1, side)
    mask = torch.zeros(1, 1, side, side, dtype=torch.float64)
    mask[..., : side // 2] = 1
    changed = torch.where(mask > 0, y, torch.rand_like(y))
    assert torch.allclose(spatial(x, y, mask), spatial(x, changed, mask), atol=1e-12)
    assert spatial(x, x, mask) == 0
    # the fill makes the left-out halves equal: the distance is that of the mask's positions alone
    places = spatial.distance_map(x, y, mask)
    share = F.adaptive_avg_pool2d(mask, places.shape[1:])[:, 0]
    assert torch.allclose(spatial(x, y, mask), (places * share).sum((1, 2)) / share.sum((1, 2)), atol=1e-10)
    assert torch.allclose(spatial.target(y, mask=mask)(x), spatial(x, y, mask), atol=1e-12)


def centred(x: Tensor) -> Tensor:
    return F.normalize(x - x.mean(-1, keepdim=True), dim=-1)


@pytest.mark.parametrize("feature", ["cls", "pooled"])
@pytest.mark.parametrize("layers", [(0, 2), (2, 0), (-1,), (1, 1)])
def test_pooled_layers_count_with_their_weights(feature: Any, layers: tuple[int, ...]) -> None:
    weights = (3.0, 1.0)[: len(layers)]
    pooled = metric(VIT, layers=layers, layer_weights=weights, feature=feature)
    x, y = images(side=32), images(side=32)
    expected = torch.zeros(2, dtype=torch.float64)
    for weight, layer in zip(weights, layers, strict=True):
        alone = metric(VIT, layers=(layer,), feature=feature)
        expected += weight / sum(weights) * alone(x, y)
    assert torch.allclose(pooled(x, y), expected, atol=1e-12)


def test_a_pooled_layer_is_the_mean_over_its_positions_or_its_class_token() -> None:
    x, y = images(side=32), images(side=32)
    tower = branch(VIT).backbone
    mean, std = (torch.tensor(v, dtype=x.dtype).view(3, 1, 1) for v in (VIT.mean, VIT.std))
    outputs = [
        tower.forward_intermediates((z - mean) / std, indices=[1], intermediates_only=True, return_prefix_tokens=True)[
            0
        ]
        for z in (x, y)
    ]
    for feature, vectors in (
        ("pooled", [patches.mean((2, 3)) for patches, _ in outputs]),
        ("cls", [prefix[:, 0] for _, prefix in outputs]),
    ):
        a, b = map(centred, vectors)
        distance = metric(VIT, layers=(1,), feature=feature)(x, y)
        assert torch.allclose(distance, 0.5 * (a - b).square().sum(-1), atol=1e-10)


def test_explicit_weights_make_the_distance_a_weighted_mean_of_the_branches() -> None:
    torch.manual_seed(0)
    weights = (1.0, 5.0, 0.25)
    ensemble = lively(Ensemble([replace(b, weight=w) for b, w in zip(tiny_branches(), weights, strict=True)])).double()
    joined = DreamSim(ensemble, dtype=torch.float64)
    x, y = images(side=32), images(side=32)
    single = [DreamSim(Ensemble([b]), dtype=torch.float64)(x, y) for b in ensemble.branches]  # type: ignore[list-item]
    expected = sum(w * d for w, d in zip(weights, single, strict=True)) / sum(weights)
    assert torch.allclose(joined(x, y), expected, atol=1e-12)


def test_the_default_feature_follows_the_architecture() -> None:
    assert Branch(VIT).config.feature == "cls"
    assert Branch(CNN).config.feature == "pooled"
    assert Branch(tiny_branches()[1]).config.feature == "embedding"
    siglip = BranchConfig("s", "vit_base_patch16_siglip_224", image_size=32, overrides=TINY)
    assert Branch(siglip).config.feature == "pooled"
    assert Branch(BranchConfig("x", "xcit_nano_12_p16_224", image_size=32)).config.feature == "pooled"
    clip = replace(tiny_branches()[1], feature=None)
    assert Branch(clip).config.feature == "embedding"


@pytest.mark.parametrize("architecture", ["vit_little_patch16_reg1_gap_256", "naflexvit_base_patch16_gap"])
def test_a_register_is_not_taken_for_a_class_token(architecture: str) -> None:
    config = BranchConfig("x", architecture, image_size=32, overrides={"embed_dim": 48, "depth": 2, "num_heads": 3})
    tower = Branch(config)
    assert tower.backbone.num_prefix_tokens and tower.config.feature == "pooled"
    with pytest.raises(ValueError, match="has no class token"):
        Branch(replace(config, feature="cls"))
    registers = replace(config, architecture="vit_small_patch14_reg4_dinov2", image_size=28)
    assert Branch(registers).config.feature == "cls"  # a class token, then registers


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "convnext_atto", "mobilenetv3_small_050", "regnetx_002", "efficientvit_b0", "tf_efficientnet_lite0",
     "swin_tiny_patch4_window7_224", "vit_small_patch14_dinov2", "test_vit3", "test_convnext2"],
)  # fmt: skip
def test_layers_of_many_kinds_of_towers_give_finite_gradients(architecture: str) -> None:
    size = 224 if "swin" in architecture else 56 if "dinov2" in architecture else 64
    config = BranchConfig("tower", architecture, image_size=size, layers=(0, -1))
    for options in ({}, {"spatial": True}):
        built = DreamSim(Ensemble([replace(config, **options)]))
        x = torch.rand(1, 3, size, size, requires_grad=True)
        distance = built.target(torch.rand(1, 3, size, size))(x)
        (gradient,) = torch.autograd.grad(distance.sum(), x)
        assert 0 < float(distance.detach()) < 2 and bool(gradient.isfinite().all()) and float(gradient.abs().sum()) > 0


def test_gradients_of_maps_are_finite_for_equal_images_and_exact() -> None:
    spatial = metric(CNN, layers=(0, 2), spatial=True, image_size=16)
    x, y = images(1, 16).requires_grad_(), images(1, 16)
    assert torch.autograd.gradcheck(spatial.target(y), (x,), eps=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(spatial(x, x.detach()).sum(), x)
    assert bool((gradient == 0).all())


def test_a_saved_metric_with_maps_and_weights_is_read_back(tmp_path: Any) -> None:
    file = tmp_path / "maps.safetensors"
    before = metric(CNN, layers=(0, -1), layer_weights=(2.0, 10_000.0), spatial=True, weight=3.0)
    before.save(file)
    after = DreamSim(file)
    assert after.ensemble.configs == before.ensemble.configs
    x, y = images(), images()
    assert torch.equal(after(x, y), before(x, y))
    assert read_model(file)[1]["branches"][0]["layers"] == [0, 4]


def test_maps_work_with_vmap_half_precision_and_their_own_size() -> None:
    spatial = metric(CNN, layers=(0,), spatial=True)
    x, y = images(3), images(3)
    mapped = torch.func.vmap(lambda a, b: spatial.compare(a[None], b[None])[0])(x, y)
    assert torch.allclose(mapped, spatial(x, y), atol=1e-12)
    half = DreamSim(Ensemble([replace(CNN, layers=(0,), spatial=True)]), dtype=torch.bfloat16)
    assert half(x.float(), y.float()).dtype == torch.float32
    own = DreamSim(spatial.ensemble, resize=False, dtype=torch.float64)
    wide = torch.rand(1, 3, 48, 80, dtype=torch.float64)
    assert own.distance_map(wide, wide.flip(-1)).shape[1:] == (24, 40)
    with pytest.raises(ValueError, match=r"maps of x and y must have one grid.*use resize=True"):
        own(wide, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Branch(replace(VIT, layers=(3,))), r"has the layers 0 to 2, got \(3,\)"),
        (lambda: replace(VIT, layers=(0,), layer_weights=(1.0, 2.0)), "one number for each of layers"),
        (lambda: replace(VIT, layers=(0,), layer_weights=(0.0,)), "positive numbers"),
        (lambda: replace(VIT, layers=(0,), feature="last_layer"), "layers are read with feature="),
        (lambda: replace(VIT, layers=3), "several numbers"),
        (lambda: replace(VIT, spatial=True, feature="cls"), "spatial=True reads maps"),
        (lambda: replace(VIT, weight=-1.0), "weight must be a positive number"),
        (lambda: BranchConfig("c", "ViT-B-32", source="open_clip", spatial=True), "for towers of timm"),
        (lambda: Ensemble([VIT, replace(CNN, weight=1.0)]), "vit have none.*give them weight=1.0"),
        (lambda: Ensemble([VIT, replace(CNN, layers=(1,))]), "vit have none"),
        (lambda: Ensemble([replace(VIT, spatial=True), CNN]), "for all branches or for none"),
        (lambda: Ensemble([replace(VIT, spatial=True)], hidden=8), "a head works on one vector"),
        (lambda: DreamSim(Ensemble([CNN])).distance_map(images().float(), images().float()), "spatial=True"),
    ],
)
def test_mistakes_are_named(make: Callable[[], Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_default_layers_of_timm_are_counted_as_here() -> None:
    """`layers` are checked against the number of entries of `feature_info`, which must be timm's own count."""
    for name in ("resnet18", "convnext_atto", "regnetx_002", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "vgg11"):
        with torch.device("meta"):
            tower: Any = timm.create_model(name, num_classes=0)
            outputs = tower.forward_intermediates(torch.rand(1, 3, 224, 224), intermediates_only=True)
        assert len(outputs) == len(tower.feature_info)


@pytest.mark.parametrize("config", [CNN, VIT])
def test_maps_of_other_grids_are_refused_although_they_are_equally_long(config: BranchConfig) -> None:
    ensemble = Ensemble([replace(config, spatial=True)])
    as_they_are, squashed = DreamSim(ensemble, resize=False), DreamSim(ensemble)
    wide, tall, small = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 96, 64), torch.rand(1, 3, 32, 32)
    calls: list[Callable[[DreamSim, Tensor], Any]] = [
        lambda metric, x: metric(wide, x),
        lambda metric, x: metric.target(wide)(x),
        lambda metric, x: metric.target([wide, x], reduction="min"),
    ]
    for call in calls:
        for other in (tall, small):
            with pytest.raises(ValueError, match="the maps of x and y must have one grid"):
                call(as_they_are, other)
            call(squashed, other)
        call(as_they_are, wide.flip(-1))


@pytest.mark.parametrize("options", [{}, {"spatial": True}, {"layers": (0, 1)}])
def test_only_ratios_of_weights_matter_however_large_they_are(options: dict[str, Any], unchecked: None) -> None:
    x, y = images(), images()
    pairs = []
    for scale in (1.0, 1e308, 1e-300):
        torch.manual_seed(3)
        weights = (scale, scale / 2) if "layers" in options else None
        configs = [replace(c, weight=scale, layer_weights=weights, **options) for c in (CNN, VIT)]
        pairs.append(DreamSim(Ensemble(configs))(x, y))
    assert float(pairs[0].min()) > 0
    for distances in pairs[1:]:
        torch.testing.assert_close(distances, pairs[0])
    for weight in (10**400, float("inf"), float("nan"), 0, -1, True, "1"):
        with pytest.raises(ValueError, match="weight must be a positive number"):
            replace(CNN, weight=weight)
