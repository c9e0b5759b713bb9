"""Maps of a pair: gradients and attention are those of the network, and what is not there is said to be unavailable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance.evaluation.metrics.named_metrics import file_metric
from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.sensitivity.attention import class_attention, last_map_distance
from dreamsim_guidance.sensitivity.gradient import gradient_map
from dreamsim_guidance.sensitivity.maps import PairMap, overlay, pair_maps

TINY = {"depth": 3, "embed_dim": 48, "num_heads": 3, "patch_size": 8}


def tower(**overrides: Any) -> Branch:
    torch.manual_seed(0)
    config = BranchConfig("tiny", "vit_base_patch16_224", feature="cls", image_size=32, overrides={**TINY, **overrides})
    return Branch(config).eval()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(1)
    files = (tmp_path / "a.png", tmp_path / "b.png")
    for file, size in zip(files, ((40, 48), (48, 64)), strict=True):
        save_image(torch.rand(1, 3, *size), file)
    return files


def test_last_attention_is_that_of_the_tower_itself() -> None:
    branch, images = tower(), torch.rand(2, 3, 32, 32)
    attended: list[Tensor] = []
    for block in branch.backbone.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _inputs, output: attended.append(output.mean(1)))
    branch.backbone.forward_features((images - branch.mean.view(1, 3, 1, 1)) / branch.std.view(1, 3, 1, 1))
    maps = class_attention(branch, images)
    last = attended[-1][:, 0, 1:]
    torch.testing.assert_close(maps["last attention"].flatten(1), last / last.sum(1, keepdim=True))
    flow = torch.eye(17).expand(2, 17, 17)
    for step in attended:
        flow = (step + torch.eye(17)) / 2 @ flow
    rollout = flow[:, 0, 1:]
    torch.testing.assert_close(maps["rollout"].flatten(1), rollout / rollout.sum(1, keepdim=True))


def test_attention_of_a_tower_of_one_block() -> None:
    maps = class_attention(tower(depth=1), torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(maps["rollout"], maps["last attention"])


def test_last_map_of_a_convolutional_tower_shows_where_pictures_differ() -> None:
    branch = Branch(BranchConfig("cnn", "tf_efficientnet_lite0", feature="pooled", image_size=128)).eval()
    x = torch.rand(1, 3, 128, 128)
    distances = last_map_distance(branch, x, x)
    assert distances.shape == (1, 4, 4) and not distances.any()
    with pytest.raises(ValueError, match="gives no map"):
        last_map_distance(tower(), torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))


def test_gradient_lies_where_the_metric_looks() -> None:
    def left(x: Tensor, y: Tensor) -> Tensor:
        return (x - y)[..., :20].square().mean((1, 2, 3))

    x, y = torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40)
    values = gradient_map(file_metric(left, cache=False).on_images(), x, y)  # type: ignore[attr-defined]
    assert values[:, :18].min() > 0 and values[:, 24:].max() == 0


@pytest.mark.parametrize(
    ("compare", "reason"),
    [
        (lambda x, y: (x - y).detach().square().mean((1, 2, 3)), "has no gradient"),
        (lambda x, y: (0 * (x - y)).square().mean((1, 2, 3)), "zero at every pixel"),
        (lambda x, y: (x - y).abs().sqrt().sum((1, 2, 3)) / 0, "not finite"),
    ],
)
def test_a_metric_without_gradient_is_unavailable(pair: tuple[Path, Path], compare: Any, reason: str) -> None:
    _, maps = pair_maps({"mine": file_metric(compare, "mine", cache=False)}, pair, progress=False)
    gradient, attention = maps["mine"]
    assert reason in gradient.unavailable and "no DreamSim" in attention.unavailable


def test_all_kinds_of_towers_are_named(pair: tuple[Path, Path]) -> None:
    towers = [
        BranchConfig("vit", "vit_base_patch16_224", image_size=32, overrides=TINY, feature="cls"),
        BranchConfig("cnn", "tf_efficientnet_lite0", image_size=64, feature="pooled"),
        BranchConfig(
            "swin", "swin_tiny_patch4_window7_224", image_size=64, overrides={"img_size": 64}, feature="pooled"
        ),
    ]
    metric = file_metric(DreamSim(towers, pretrained=False), "mixed", cache=False)
    pictures, maps = pair_maps({"mixed": metric}, pair, progress=False)
    by_name = {m.name: m for m in maps["mixed"]}
    assert [name for name in by_name if "gradient" not in name] == [
        "rollout of vit", "last attention of vit", "distances of the last map of cnn", "attention of swin",
    ]  # fmt: skip
    assert "no plain Vision Transformer" in by_name["attention of swin"].unavailable
    assert all(m.a is not None for m in maps["mixed"] if not m.unavailable)
    assert pictures[0].shape == pictures[1].shape == (1, 3, 40, 48)


def test_maps_of_spatial_metrics_are_their_distance_maps(pair: tuple[Path, Path]) -> None:
    config = BranchConfig("cnn", "tf_efficientnet_lite0", image_size=64, layers=(1, 2), spatial=True)
    _, maps = pair_maps(
        {"spatial": file_metric(DreamSim([config], pretrained=False), "spatial", cache=False)}, pair, progress=False
    )
    assert "distance map" in [m.name for m in maps["spatial"] if not m.unavailable]


def test_adapters_change_attention_too() -> None:
    metric = DreamSim("pocket", baseline=True, fold=False)
    branch = metric.ensemble.branches[0]
    images = torch.rand(1, 3, 64, 64)
    before = class_attention(branch, images)["rollout"]  # type: ignore[arg-type]
    with torch.no_grad():
        nn.init.normal_(branch.backbone.blocks[0].attn.qkv.weight)  # type: ignore[union-attr,operator,index]
    assert not torch.equal(before, class_attention(branch, images)["rollout"])  # type: ignore[arg-type]


def test_overlay_is_a_png_also_for_a_flat_map() -> None:
    pictures = (torch.rand(1, 3, 20, 30), torch.rand(1, 3, 20, 30))
    assert overlay(pictures, PairMap("flat", np.zeros((2, 3)), np.zeros((2, 3)))).startswith(b"\x89PNG")
    assert overlay(pictures, PairMap("one", np.ones((2, 3)))).startswith(b"\x89PNG")
