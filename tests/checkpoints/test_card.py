"""Cards and adapter settings from untrusted files: null and absurd numbers are refused quickly, before anything is built."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_branches
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dreamsim_guidance import BranchConfig, DreamSim
from dreamsim_guidance.checkpoints.hub import model_card
from dreamsim_guidance.checkpoints.model_file import read_card, read_model
from dreamsim_guidance.files.untrusted_json import MAX_BYTES
from dreamsim_guidance.metric import TowerWeights

pytestmark = pytest.mark.usefixtures("unchecked")

Card = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    metric = DreamSim(tiny_branches(), pretrained=False)
    metric.attach_head(8)
    metric.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def write_text(file: Path, text: str) -> None:
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, {**metadata, "card": text})


def refused(file: Path, monkeypatch: pytest.MonkeyPatch, message: str = r"m\.safetensors") -> None:
    """It is refused at once, and no module gets memory for more than a tiny model."""
    create = torch.empty

    def small_only(*size: Any, **options: Any) -> torch.Tensor:
        tensor = create(*size, **options)
        assert tensor.is_meta or tensor.numel() < 1e6
        return tensor

    monkeypatch.setattr(torch, "empty", small_only)
    began = time.process_time()
    with pytest.raises(ValueError, match=message):
        read_model(file)
    assert time.process_time() - began < 3.0  # of CPU time; on a busy machine a second is soon over


ABSURD: dict[str, Any] = {
    "null": None,
    "zero": 0,
    "negative": -3,
    "a trillion": 10**12,
    "a float of it": 1e12,
    "beyond floats": 10**400,
    "infinity": float("inf"),
    "nan": float("nan"),
    "text": "32",
    "true": True,
    "a list": [32],
    "a dictionary": {"a": 32},
    "a nest": [[[[[[[[[[[[[[[[[[[[32]]]]]]]]]]]]]]]]]]]],
}
PLACES: dict[str, Callable[[Card, Any], object]] = {
    "image_size": lambda card, value: card["branches"][0].update(image_size=value),
    "embed_dim": lambda card, value: card["branches"][0]["overrides"].update(embed_dim=value),
    "depth": lambda card, value: card["branches"][0]["overrides"].update(depth=value),
    "hidden": lambda card, value: card["head"].update(hidden=value),
    "std": lambda card, value: card["branches"][0].update(std=[value, 1.0, 1.0]),
}
POSSIBLE = {("std", name) for name in ("negative", "text", "true")}
"""A deviation of a colour may be these."""


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place in PLACES for value in ABSURD if (place, value) not in POSSIBLE]
)
def test_absurd_numbers_are_refused(place: str, value: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = read_card(file)
    PLACES[place](card, ABSURD[value])
    write_text(file, json.dumps(card))
    refused(file, monkeypatch)


@pytest.mark.parametrize("key", ["name", "architecture", "source", "image_size", "mean", "std"])
def test_null_in_a_branch_is_refused(key: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = read_card(file)
    card["branches"][0][key] = None
    write_text(file, json.dumps(card))
    refused(file, monkeypatch, "cannot be built")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "is not JSON"),
        ('{"a": ' * 50_000 + "1" + "}" * 50_000, "is not JSON"),
        (json.dumps(["x" * 1000] * (MAX_BYTES // 900)), f"at most {MAX_BYTES} are read"),
        ("", "is not JSON"),
        ('{"reference": NaN}', "NaN is not a number that JSON has"),
    ],
    ids=["a nest of lists", "a nest of dictionaries", "a megabyte", "nothing", "NaN"],
)
def test_nested_long_empty_and_nan_json_is_refused_quickly(
    text: str, message: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(file, text)
    refused(file, monkeypatch, message)


def test_a_thousand_branches_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = read_card(file)
    card["branches"] *= 400
    write_text(file, json.dumps(card))
    refused(file, monkeypatch, "1200 branches, at most 64")


def test_a_tower_with_more_blocks_than_the_file_has_tensors_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = read_card(file)
    card["branches"][0]["overrides"]["depth"] = 5000
    write_text(file, json.dumps(card))
    refused(file, monkeypatch, r"wrong shape: depth = 5000, but the file has \d+ tensors")


def test_a_card_that_was_only_read_and_written_still_loads(file: Path) -> None:
    write_text(file, json.dumps(read_card(file)))
    assert DreamSim(file).embed(torch.rand(1, 3, 8, 8)).shape[0] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be a whole number of at least 1, got 0"),
        ({"image_size": 32.0}, r"image_size must be a whole number of at least 1, got 32\.0"),
        ({"feature": "embedding", "projection": -1}, "projection must be a whole number of at least 1, got -1"),
        ({"std": (1.0, 0.0, 1.0)}, "std not 0"),
        ({"mean": (float("nan"), 0.0, 0.0)}, "must be finite"),
        ({"name": None}, "name must be text"),
    ],
)
def test_impossible_branches_are_refused_when_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        BranchConfig(**{"name": "a", "architecture": "vit_base_patch16_224", **options})


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    metric = DreamSim(tiny_branches(), pretrained=False)
    metric.attach_adapter(rank=2)
    metric.save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("value", [name for name in ABSURD if name not in ("text", "negative", "zero")])
@pytest.mark.parametrize("key", ["r", "lora_alpha", "lora_dropout", "target_modules"])
def test_absurd_settings_of_adapters_are_refused(key: str, value: str, adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: ABSURD[value]}))
    metric: nn.Module = DreamSim(tiny_branches(), pretrained=False)
    before = list(metric.state_dict())
    began = time.process_time()
    with pytest.raises(ValueError):
        metric.load_adapter(adapter)  # type: ignore[operator]
    assert time.process_time() - began < 3.0  # of CPU time; on a busy machine a second is soon over
    assert list(metric.state_dict()) == before


@pytest.mark.parametrize("text", ["[" * 100_000, " " * (MAX_BYTES + 1), "null", ""])
def test_an_adapter_config_that_is_no_json_object_is_refused(text: str, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not JSON|at most|type 'NoneType' cannot be loaded"):
        DreamSim(tiny_branches(), pretrained=False).load_adapter(adapter)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", [0] * 100_000),
        ("layers", [10**400]),
        ("layer_weights", [10**400]),
        ("weight", 10**400),
        ("weight", "1"),
        ("spatial", 1),
        ("tag", 5),
        ("weights", [1]),
        ("weights", {}),
        ("weights", {"place": "a", "licence": {}}),
        ("weights", {"place": "a", "source": 5}),
        ("weights", {"place": "a", "sha256": 5}),
        ("weights", {"place": "package:a/../b"}),
    ],
)
def test_absurd_layers_weights_and_records_are_refused(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.safetensors"
    DreamSim([BranchConfig("c", "test_resnet", image_size=32, layers=(0,))], pretrained=False).save(file)
    card = read_card(file)
    card["branches"][0][key] = value
    write_text(file, json.dumps(card))
    refused(file, monkeypatch)


def test_the_readme_names_the_weights_that_a_tower_began_with() -> None:
    metric = DreamSim(
        [
            BranchConfig(
                "c", "test_resnet", image_size=32, weights=TowerWeights("tower.pth", licence="BSD-3", source="s 1")
            )
        ],
        pretrained=False,
    )
    readme = model_card(metric.card, "owner/name")
    assert "- c: `tower.pth`, licence BSD-3, source s 1, sha256 `unknown`" in readme
