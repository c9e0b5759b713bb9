"""Official weights are read exactly, and files that only resemble them are never used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from official_format import DINO, small, write_official

from dreamsim_guidance.checkpoints.official import load_official
from dreamsim_guidance.metric.adapters import load_adapter
from dreamsim_guidance.metric.variants import VARIANTS

pytestmark = pytest.mark.usefixtures("cache")


def stored(folder: Path, name: str) -> dict[str, torch.Tensor]:
    content: Any = torch.load(folder / name, weights_only=True)
    return content


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_read_from_a_folder(name: str, originals: Path) -> None:
    checkpoint = load_official(small(name), weights=originals, offline=True)
    assert [c.name for c in checkpoint.ensemble.configs] == [b.name for b in VARIANTS[name].branches]
    assert checkpoint.adapter == originals / VARIANTS[name].adapter
    assert all(p.dtype == torch.float32 and not p.is_meta for p in checkpoint.ensemble.parameters())
    load_adapter(checkpoint.ensemble, checkpoint.adapter)
    assert checkpoint.ensemble.eval()(torch.rand(2, 3, 224, 224)).isfinite().all()


def test_tensors_arrive_under_timms_names_unchanged(originals: Path) -> None:
    state = load_official(small("ensemble"), weights=originals).ensemble.state_dict()
    dino = stored(originals, DINO)
    clip = stored(originals, "clip_vitb16_pretrain.pth.tar")["state_dict"]
    assert torch.equal(state["branches.0.backbone.blocks.1.attn.qkv.weight"], dino["blocks.1.attn.qkv.weight"])
    assert torch.equal(state["branches.1.backbone.norm_pre.weight"], clip["pos_drop.weight"])
    assert torch.equal(state["branches.1.projection"], clip["proj"])
    assert len(state) == len(dino) + 2 * len(clip)

    state = load_official(small("synclr_vitb16"), weights=originals).ensemble.state_dict()
    synclr = stored(originals, "synclr_vit_b_16.pth")["model"]
    assert torch.equal(state["branches.0.backbone.cls_token"], synclr["module.visual.cls_token"])

    state = load_official(small("dinov2_vitb14"), weights=originals).ensemble.state_dict()
    assert state["branches.0.backbone.pos_embed"].shape == (1, 37 * 37 + 1, 32)


def test_the_backbone_of_dinos_student_is_never_read(official: Path) -> None:
    expected = stored(official, DINO)["cls_token"]
    student = stored(official, "dino_vitb16_pretrain.pth")["student"]["module.backbone.cls_token"]
    assert not torch.equal(expected, student)
    ensemble = load_official(small("dino_vitb16"), weights=official).ensemble
    assert torch.equal(ensemble.state_dict()["branches.0.backbone.cls_token"], expected)

    (official / DINO).unlink()
    with pytest.raises(FileNotFoundError, match=r"dino_vitbase16_pretrain\.pth"):
        load_official(small("dino_vitb16"), weights=official, offline=True)


def test_dinov2s_namesake_in_the_zip_is_never_read(official: Path) -> None:
    (official / "checkpoints" / "dinov2_vitb14_pretrain.pth").unlink()
    assert (official / "dinov2_vitb14_pretrain.pth").exists()
    with pytest.raises(FileNotFoundError, match=r"dl\.fbaipublicfiles\.com/dinov2"):
        load_official(small("dinov2_vitb14"), weights=official, offline=True)


def test_without_the_adapter_only_base_weights_are_needed(official: Path) -> None:
    shutil.rmtree(official / "ensemble_lora")
    checkpoint = load_official(small("ensemble"), weights=official, pretrained=False, offline=True)
    assert checkpoint.adapter is None and "adapter" not in checkpoint.files


def test_files_are_not_needed_after_loading(official: Path) -> None:
    ensemble = load_official(small("dino_vitb16"), weights=official).ensemble
    before = ensemble.state_dict()["branches.0.backbone.norm.weight"].clone()
    os.truncate(official / DINO, 10)  # a memory map of it would crash the process here
    assert torch.equal(ensemble.state_dict()["branches.0.backbone.norm.weight"], before)


def test_files_of_pytorch_before_1_6_are_read(official: Path) -> None:
    content = stored(official, DINO)
    torch.save(content, official / DINO, _use_new_zipfile_serialization=False)
    load_official(small("dino_vitb16"), weights=official)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ensemble", "dinov2_vitb14_patch"])
def test_full_size_files_are_read(name: str, tmp_path: Path) -> None:
    write_official(tmp_path, name)
    checkpoint = load_official(name, weights=tmp_path, offline=True)
    assert checkpoint.adapter is not None
    load_adapter(checkpoint.ensemble, checkpoint.adapter)
    with torch.no_grad():
        features = checkpoint.ensemble.eval()(torch.rand(1, 3, 224, 224))
    assert features.shape == ((1, 1792) if name == "ensemble" else (1, 257, 768))
