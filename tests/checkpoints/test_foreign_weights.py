"""Adapters and weights of other models, damaged and hostile files are refused, and say so."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from official_format import DINO, small
from safetensors.torch import load_file, save_file

from dreamsim_guidance.checkpoints.official import load_official

pytestmark = pytest.mark.usefixtures("cache")


def spoil(folder: Path, **changes: Any) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))


def test_an_adapter_of_the_first_releases_under_the_new_name_is_refused(official: Path) -> None:
    spoil(official / "ensemble_lora", enable_lora=None)
    with pytest.raises(ValueError, match=r"is an adapter of dreamsim 0\.1\.x"):
        load_official(small("ensemble"), weights=official)


def test_an_adapter_for_other_branches_is_refused(official: Path) -> None:
    shutil.rmtree(official / "ensemble_lora")
    shutil.copytree(official / "dino_vitb16_single_lora", official / "ensemble_lora")
    with pytest.raises(ValueError, match=r"wrong adapter: .*tunes 1 branches, 'ensemble' has 3"):
        load_official(small("ensemble"), weights=official)


def test_an_adapter_with_foreign_names_is_refused(official: Path) -> None:
    path = official / "ensemble_lora" / "adapter_model.safetensors"
    save_file({"base_model.model." + key: value for key, value in load_file(path).items()}, path)
    with pytest.raises(ValueError, match="has other names than DreamSim's adapters"):
        load_official(small("ensemble"), weights=official)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[]", "type 'list'"), (b'{"peft_type": "IA3"}', "'IA3'")],
)
def test_an_adapter_config_of_something_else_is_refused(official: Path, content: bytes, message: str) -> None:
    (official / "ensemble_lora" / "adapter_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_official(small("ensemble"), weights=official)


def test_a_truncated_adapter_is_refused(official: Path) -> None:
    os.truncate(official / "ensemble_lora" / "adapter_model.safetensors", 100)
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        load_official(small("ensemble"), weights=official)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("writer", ["torch", "legacy", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(official: Path, tmp_path: Path, writer: str) -> None:
    payload = {"cls_token": Attack(tmp_path / "owned")}
    if writer == "pickle":
        (official / DINO).write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, official / DINO, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(ValueError, match=r"dino_vitbase16_pretrain\.pth cannot be read as PyTorch weights"):
        load_official(small("dino_vitb16"), weights=official)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_truncated_weights_are_refused(official: Path, size: int) -> None:
    os.truncate(official / DINO, size)
    with pytest.raises(ValueError, match="cannot be read as PyTorch weights"):
        load_official(small("dino_vitb16"), weights=official)


def change(path: Path, edit: Any) -> None:
    content: Any = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("norm.bias"), r"missing: backbone\.norm\.bias"),
        (lambda c: c.update(extra=torch.zeros(1)), r"unexpected: backbone\.extra"),
        (
            lambda c: c.update(cls_token=torch.zeros(1, 1, 8)),
            r"backbone\.cls_token is \(1, 1, 8\) instead of \(1, 1, 32",
        ),
        (lambda c: c.update(epoch=3), "its entry 'epoch' is no tensor"),
    ],
)
def test_weights_of_something_else_are_refused_by_key(official: Path, edit: Any, message: str) -> None:
    change(official / DINO, edit)
    with pytest.raises(ValueError, match=message):
        load_official(small("dino_vitb16"), weights=official)


def test_a_file_without_its_entry_is_refused(official: Path) -> None:
    change(official / "clip_vitb32_pretrain.pth.tar", lambda c: c.update(weights=c.pop("state_dict")))
    with pytest.raises(ValueError, match="has no entry 'state_dict'"):
        load_official(small("clip_vitb32"), weights=official)
    torch.save([1, 2], official / DINO)
    with pytest.raises(ValueError, match="holds a list, not named tensors"):
        load_official(small("dino_vitb16"), weights=official)


# Full size -----------------------------------------------------------------------------------------------------------
