from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import TINY, lively, tiny_branches
from timm.layers.activations import QuickGELU

from dreamsim_guidance import Branch, BranchConfig, Ensemble
from dreamsim_guidance.metric.variants import BRANCHES, VARIANTS


def timm_tokens(branch: Branch, images: torch.Tensor) -> torch.Tensor:
    """timm's own forward up to the last block, on images normalised by hand."""
    mean, std = (torch.tensor(v, dtype=images.dtype).view(1, 3, 1, 1) for v in (branch.config.mean, branch.config.std))
    model = branch.backbone
    x = model.patch_embed((images - mean) / std)
    x = model.norm_pre(model._pos_embed(x))
    for block in model.blocks:
        x = block(x)
    return x


@pytest.mark.parametrize("index", [0, 1, 2])
def test_our_forward_is_timms(index: int) -> None:
    branch = lively(Ensemble([tiny_branches()[index]])).branches[0].double().eval()
    assert isinstance(branch, Branch) and branch.plain
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    expected = timm_tokens(branch, images)[:, 0]
    if branch.projection is not None:
        expected = branch.backbone.norm(expected) @ branch.projection
    assert torch.allclose(branch(images), expected, atol=1e-12)


def test_the_class_token_alone_is_the_class_token_of_all() -> None:
    config = tiny_branches()[0]
    branch = lively(Ensemble([config])).branches[0].double()
    patches = Branch(replace(config, feature="cls_patch")).double()
    patches.load_state_dict(branch.state_dict())
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert torch.allclose(branch(images), patches(images)[:, 0], atol=1e-12)


def test_the_three_kinds_differ_as_the_published_ones_do() -> None:
    dino, clip, open_clip = (Branch(config) for config in tiny_branches())
    assert isinstance(clip.backbone.blocks[0].mlp.act, QuickGELU)
    assert not isinstance(open_clip.backbone.blocks[0].mlp.act, QuickGELU)
    assert [b.backbone.blocks[0].norm1.eps for b in (dino, clip, open_clip)] == [1e-6, 1e-5, 1e-5]
    assert [isinstance(b.backbone.norm_pre, torch.nn.LayerNorm) for b in (dino, clip, open_clip)] == [False, True, True]
    assert [b.projection is not None for b in (dino, clip, open_clip)] == [False, True, True]


def test_layer_scale_is_applied() -> None:
    branch = Branch(
        BranchConfig("dinov2", "vit_base_patch14_dinov2", image_size=28, overrides={**TINY, "patch_size": 14})
    )
    assert branch.plain
    lively(Ensemble([branch]))
    branch.double().eval()
    images = torch.rand(1, 3, 28, 28, dtype=torch.float64)
    assert torch.allclose(branch(images), timm_tokens(branch, images)[:, 0], atol=1e-12)


def test_colour_statistics_stay_exact_through_precisions() -> None:
    branch = Branch(tiny_branches()[0]).bfloat16().double()
    assert branch.mean.tolist() == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_nonsense"}, "timm has no model 'vit_nonsense'"),
        ({"architecture": "convnext_atto", "overrides": {}, "feature": "cls"}, "has no class token"),
        ({"feature": "middle"}, "unknown feature 'middle'; known: cls, embedding"),
        ({"feature": "embedding"}, "feature='embedding' and projection go together"),
        ({"source": "hub"}, "unknown source 'hub'; known: open_clip, timm"),
        ({"mean": (0.5,)}, "mean needs three numbers"),
        ({"source": "open_clip", "feature": "pooled", "architecture": "ViT-Z"}, "open_clip has no model 'ViT-Z'"),
    ],
)
def test_bad_branches_are_refused(changes: dict[str, object], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        Branch(replace(tiny_branches()[0], **changes))  # type: ignore[arg-type]


def test_base_weights_need_a_tag() -> None:
    with pytest.raises(ValueError, match="names no base weights"):
        Branch(BRANCHES["open_clip_vitb16"], pretrained=True)


def test_bad_ensembles_are_refused(unchecked: None) -> None:
    with pytest.raises(ValueError, match="at least one branch"):
        Ensemble([])
    with pytest.raises(TypeError, match="a branch is a Branch or a BranchConfig, got str"):
        Ensemble(["dino_vitb16"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="for all branches or for none"):
        Ensemble([tiny_branches()[0], replace(tiny_branches()[0], feature="cls_patch")])


def test_the_published_variants_are_eight_with_their_files() -> None:
    assert sorted(VARIANTS) == [
        "clip_vitb32", "dino_vitb16", "dino_vitb16_patch", "dinov2_vitb14", "dinov2_vitb14_patch", "ensemble",
        "open_clip_vitb32", "synclr_vitb16",
    ]  # fmt: skip
    assert VARIANTS["ensemble"].url.endswith("/v0.2.0-checkpoints/dreamsim_ensemble_checkpoint.zip")
    assert VARIANTS["dino_vitb16_patch"].url.endswith("/v0.2.1-checkpoints/dreamsim_dino_vitb16_patch_checkpoint.zip")


def test_an_open_clip_tower_is_a_branch() -> None:
    small = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}}
    import open_clip

    open_clip.factory._MODEL_CONFIGS["tiny-for-this-test"] = {
        **small,
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 64, "heads": 1, "layers": 1},
    }
    branch = Branch(
        BranchConfig("tower", "tiny-for-this-test", source="open_clip", feature="pooled", image_size=32)
    ).eval()
    assert branch(torch.rand(2, 3, 32, 32)).shape == (2, 16)


@pytest.mark.parametrize(
    ("architecture", "feature", "size", "width"),
    [
        ("resnet18", "pooled", 64, 512),
        ("tiny_vit_5m_224", "pooled", 64, 320),
        ("deit_tiny_patch16_224", "pooled", 64, 192),
        ("beit_base_patch16_224", "cls", 64, 768),
        ("vit_tiny_r_s16_p8_224", "cls", 64, 192),
        ("vit_tiny_patch16_224", "cls", 96, 192),
    ],
)
def test_towers_of_other_kinds_are_branches_at_their_own_size(
    architecture: str, feature: Any, size: int, width: int
) -> None:
    branch = Branch(BranchConfig("x", architecture, feature=feature, image_size=size)).eval()
    assert branch(torch.rand(1, 3, size, size)).shape == (1, width)


def test_towers_that_hide_their_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'xcit_nano_12_p16_224'.* cannot be read; use feature="):
        Branch(BranchConfig("x", "xcit_nano_12_p16_224", feature="cls"))


def test_an_ensemble_takes_any_iterable_of_branches() -> None:
    assert len(Ensemble(b for b in tiny_branches()).branches) == 3
