"""Robustly trained towers: their files in the formats in which they are published, converted to timm's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric.backbones import CLIP_MEAN, CLIP_STD, Branch, BranchConfig
from dreamsim_guidance.metric.robust import ROBUST
from dreamsim_guidance.metric.transformers_vit import with_timm_names
from dreamsim_guidance.training.base_models import base_metric

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}


def normalised(images: torch.Tensor, config: BranchConfig) -> torch.Tensor:
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (config.mean, config.std))
    return (images - mean) / std


def lively(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = (
            torch.randn_like(parameter) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2) + 0.1
        )


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_tower_in_transformers_format_is_the_same_tower(tmp_path: Path, prefix: str) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    theirs = ViTModel(ViTConfig(image_size=32, patch_size=8, layer_norm_eps=1e-6, **sizes)).eval()
    lively(theirs)
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(file).items()}, file)
    config = BranchConfig(
        "dino", "vit_base_patch16_224", feature="last_layer", image_size=32, overrides=SMALL,
        weights=str(file),
    )  # fmt: skip
    ours, images = Branch(config, pretrained=True).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(normalised(images, config)).last_hidden_state[:, 0]
        torch.testing.assert_close(ours(images), expected, atol=2e-5, rtol=1e-4)


def test_a_tower_in_open_clip_format_is_the_same_tower(tmp_path: Path) -> None:
    from open_clip.model import CLIP

    vision = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 2, "layers": 1}
    theirs = CLIP(24, vision, text).eval()
    lively(theirs)
    save_file(
        {name: t.contiguous() for name, t in theirs.state_dict().items()}, tmp_path / "open_clip_model.safetensors"
    )
    published = ROBUST["robust_fare"][0]
    config = BranchConfig(
        "clip", published.architecture, feature=published.feature, image_size=32, projection=24, mean=CLIP_MEAN, std=CLIP_STD,
        overrides={"embed_dim": 128, "depth": 2, "num_heads": 2, "patch_size": 8},
        weights=str(tmp_path / "open_clip_model.safetensors"),
    )  # fmt: skip
    ours, images = Branch(config, pretrained=True).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.visual(normalised(images, config)), atol=2e-5, rtol=1e-4)


def test_other_weights_keep_their_names() -> None:
    tensors = {"cls_token": torch.zeros(1), "blocks.0.attn.qkv.weight": torch.zeros(2)}
    assert with_timm_names(tensors) == tensors


@pytest.mark.parametrize("name", sorted(ROBUST))
def test_each_is_built_on_random_weights(name: str) -> None:
    metric = DreamSim(name, pretrained=False, device="meta")
    assert [config.name for config in metric.ensemble.configs] == [config.name for config in ROBUST[name]]
    images = torch.empty(2, 3, 224, 224, device="meta")
    assert metric.embed(images).shape == (2, {"robust": 768 + 512 + 512}.get(name, 512))
    assert metric.card["source"] == "random weights"
    assert {config.weight for config in metric.ensemble.configs} == {1.0}


def test_what_they_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="'robust' has its weights from the Hub and no adapter"):
        DreamSim("robust", baseline=True)
    with pytest.raises(ValueError, match="weights are those of a published variant"):
        base_metric("robust_fare", weights=Path("x"))


def test_without_a_network_the_error_names_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("dreamsim_guidance.metric.base_weights.hub_available", lambda: False)
    with pytest.raises(FileNotFoundError, match="chs20/FARE4-ViT-B-16-laion2B-s34B-b88K"):
        DreamSim("robust_fare")


def test_an_attack_moves_the_robust_pocket_metric_less() -> None:
    from dreamsim_guidance.data.scenes.drawing import draw
    from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
    from dreamsim_guidance.evaluation import Attack, pgd

    images = torch.cat([draw(pocket_scene(number, "test"), 64) for number in range(8)])
    moved = {
        name: pgd(DreamSim(name).target(images), images, Attack("linf", 4 / 255, steps=5)).distance
        for name in ("pocket", "pocket_robust")
    }
    assert float(moved["pocket_robust"].mean()) < 0.6 * float(moved["pocket"].mean())


def test_the_robust_pocket_metric_is_an_adapter_on_the_tuned_one() -> None:
    images = torch.rand(2, 3, 64, 64)
    folded, live = DreamSim("pocket_robust"), DreamSim("pocket_robust", fold=False)
    torch.testing.assert_close(folded.embed(images), live.embed(images), atol=1e-5, rtol=0)
    assert folded.card["name"] == "pocket_robust" and folded.card["reference"]
    live.set_adapter(None)
    torch.testing.assert_close(live.embed(images), DreamSim("pocket").embed(images), atol=1e-5, rtol=0)
    base = DreamSim("pocket_robust", baseline=True)
    torch.testing.assert_close(base.embed(images), DreamSim("pocket", baseline=True).embed(images))
    start = base_metric("pocket_tuned", normalize_embeds=True)
    torch.testing.assert_close(start.embed(images), DreamSim("pocket").embed(images))
