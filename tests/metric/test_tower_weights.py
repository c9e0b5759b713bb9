"""Weights of towers from files, installed packages and the Hub: names, order, checksums, records, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import TINY
from safetensors.torch import save_file

from dreamsim_guidance import DreamSim
from dreamsim_guidance.checkpoints.model_file import read_card
from dreamsim_guidance.metric import Branch, BranchConfig, Ensemble, TowerWeights

CNN = {"name": "cnn", "architecture": "test_resnet", "image_size": 32}


@pytest.fixture
def trained() -> Any:
    """A tower with a classifier, as ImageNet's are."""
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=10)


def is_filled(branch: Branch, tower: Any) -> bool:
    ours, theirs = branch.backbone.state_dict(), tower.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("name", ["tower.safetensors", "TOWER.SAFETENSORS", "my tower", "tower.pth"])
def test_a_file_is_read_by_its_content_from_a_path_of_any_kind(trained: Any, tmp_path: Path, name: str) -> None:
    file = tmp_path / "a folder" / name
    file.parent.mkdir()
    save_file(trained.state_dict(), file)
    branch = Branch(BranchConfig(**CNN, weights=file), pretrained=True)
    assert is_filled(branch, trained)
    assert isinstance(branch.config.weights, TowerWeights) and branch.config.weights.place == str(file)
    torch.save({name: tensor.double() for name, tensor in trained.state_dict().items()}, file.with_suffix(".bin"))
    branch = Branch(BranchConfig(**CNN, weights=file.with_suffix(".bin")), pretrained=True)
    assert is_filled(branch, trained) and branch.dtype == torch.float32


@pytest.mark.parametrize(
    ("key", "prefix"),
    [(None, "model."), ("model_state_dict", ""), ("net", ""), ("state_dict", "backbone."), ("teacher", "module.backbone."),
     ("state_dict", "model.backbone."), ("weights", "_orig_mod.")],
)  # fmt: skip
def test_weights_are_found_in_checkpoints_of_many_trainings(
    trained: Any, tmp_path: Path, key: str | None, prefix: str
) -> None:
    file = tmp_path / "checkpoint.pth"
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    if "backbone" in prefix:
        state["module.head.weight"] = torch.zeros(3)
    optimiser = torch.optim.AdamW(trained.parameters())
    torch.save(state if key is None else {key: state, "optimizer": optimiser.state_dict(), "epoch": 3}, file)
    assert is_filled(Branch(BranchConfig(**CNN, weights=file), pretrained=True), trained)


def test_a_checkpoint_of_several_networks_is_refused(trained: Any, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"student_a": trained.state_dict(), "student_b": trained.state_dict()}, file)
    with pytest.raises(ValueError, match="no state dictionary of tensors, or several"):
        Branch(BranchConfig(**CNN, weights=file), pretrained=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_local_file_fills_the_tower(trained: Any, tmp_path: Path, suffix: str, wrapped: bool) -> None:
    file, state = tmp_path / f"tower{suffix}", trained.state_dict()
    if suffix == ".safetensors":
        save_file({f"module.{name}": tensor for name, tensor in state.items()} if wrapped else state, file)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, file)
    metric = DreamSim([BranchConfig(**CNN, weights=str(file))])
    branch: Any = metric.ensemble.branches[0]
    assert is_filled(branch, trained)
    record = branch.config.weights
    assert record.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() and record.place == str(file)
    x, y = torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 40)
    saved = tmp_path / "metric.safetensors"
    metric.save(saved)
    file.unlink()  # the model file needs nothing else
    again = DreamSim(saved)
    assert torch.equal(again(x, y), metric(x, y)) and again.ensemble.configs[0].weights == record
    assert read_card(saved)["branches"][0]["weights"]["sha256"] == record.sha256


def test_a_vision_transformer_from_a_file_takes_another_size(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    tower: Any = timm.create_model("vit_base_patch16_224", img_size=64, num_classes=5, **TINY)
    save_file(tower.state_dict(), file)
    config = BranchConfig("vit", "vit_base_patch16_224", image_size=32, overrides=TINY, weights=str(file))
    branch = Branch(config, pretrained=True)
    assert branch.config.feature == "cls"
    assert torch.equal(branch.backbone.blocks[0].attn.qkv.weight, tower.blocks[0].attn.qkv.weight)
    assert branch.backbone.pos_embed.shape[1] == 1 + (32 // TINY["patch_size"]) ** 2


def test_tensors_in_order_fill_a_tower_of_other_names(trained: Any, tmp_path: Path) -> None:
    file = tmp_path / "port.pth"
    torch.save({f"layer_{i}": tensor for i, tensor in enumerate(trained.state_dict().values())}, file)
    branch = Branch(BranchConfig(**CNN, weights=TowerWeights(str(file), by="order")), pretrained=True)
    assert is_filled(branch, trained)
    with pytest.raises(ValueError, match=r"in its order, conv1\.weight is|tensors, and the tower"):
        Branch(BranchConfig("x", "resnet18", weights=TowerWeights(str(file), by="order")), pretrained=True)


def test_weights_of_another_tower_are_refused(trained: Any, tmp_path: Path) -> None:
    file = tmp_path / "tower.safetensors"
    save_file(trained.state_dict(), file)
    with pytest.raises(ValueError, match=r"branch 'x': .*tower.safetensors' does not hold the weights of 'resnet18'"):
        Branch(BranchConfig("x", "resnet18", weights=str(file)), pretrained=True)
    incomplete = {name: tensor for name, tensor in trained.state_dict().items() if "layer4" not in name}
    save_file(incomplete, file)
    with pytest.raises(ValueError, match="does not hold the weights"):
        Branch(BranchConfig(**CNN, weights=str(file)), pretrained=True)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_a_file_with_code_or_rubbish_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tower.pth"
    torch.save({"state_dict": Bomb()}, file)
    for content in (None, b"rubbish", pickle.dumps([1, 2])):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=r"tower\.pth'"):
            Branch(BranchConfig(**CNN, weights=str(file)), pretrained=True)
    assert not Path("exploded").exists()


def test_another_checksum_is_refused(trained: Any, tmp_path: Path) -> None:
    file = tmp_path / "tower.safetensors"
    save_file(trained.state_dict(), file)
    with pytest.raises(ValueError, match=r"is not the expected file: its sha256 is [0-9a-f]{64}, expected 000"):
        Branch(BranchConfig(**CNN, weights=TowerWeights(str(file), sha256="0" * 64)), pretrained=True)


def test_a_package_that_is_missing_is_named_with_its_command() -> None:
    config = BranchConfig(**CNN, weights="package:no-such-tower-model/models/tower.pth")
    with pytest.raises(ModuleNotFoundError, match=r"package no-such-tower-model, .*; pip install no-such-tower-model"):
        DreamSim([config])
    with pytest.raises(FileNotFoundError, match=r"package torch \S+ has no file 'no/such\.pth'"):
        DreamSim([BranchConfig(**CNN, weights="package:torch/no/such.pth")])


def test_a_file_in_a_package_is_read_with_licence_and_source(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "tower_model-1.5.dist-info"
    about.mkdir()
    text = "Metadata-Version: 2.1\nName: tower-model\nVersion: 1.5\nLicense: BSD-3\nHome-page: https://example.org/towers\n"
    (about / "METADATA").write_text(text)
    (tmp_path / "tower_model").mkdir()
    save_file(trained.state_dict(), tmp_path / "tower_model" / "tower.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    branch = Branch(BranchConfig(**CNN, weights="package:tower-model/tower_model/tower.safetensors"), pretrained=True)
    record: Any = branch.config.weights
    assert is_filled(branch, trained)
    assert (record.licence, record.source) == ("BSD-3", "tower-model 1.5, https://example.org/towers")


@pytest.mark.parametrize("place", ["hf-hub:someone/tower", "hf-hub:someone/tower/weights/tower.safetensors"])
def test_a_repository_is_read_from_the_cache_without_a_network(
    trained: Any, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("DREAMSIM_GUIDANCE_OFFLINE", "1")
    config = BranchConfig(**CNN, weights=place)
    with pytest.raises(FileNotFoundError, match=r"weights='hf-hub:someone/tower.*downloading is off"):
        Branch(config, pretrained=True)
    snapshot = tmp_path / "models--someone--tower" / "snapshots" / "abc"
    (snapshot / "weights").mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    save_file(
        trained.state_dict(), snapshot / ("weights/tower.safetensors" if "weights" in place else "model.safetensors")
    )
    branch = Branch(config, pretrained=True)
    record: Any = branch.config.weights
    assert is_filled(branch, trained) and record.source == "https://huggingface.co/someone/tower"


def test_a_list_of_branches_wants_pretrained_weights_and_says_where_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DREAMSIM_GUIDANCE_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"no default ones; give weights=.*or use pretrained=False"):
        DreamSim([BranchConfig("x", "ViT-B-32", "open_clip")])
    with pytest.raises(FileNotFoundError, match=r"needs the weights resnet18\.\w+"):
        DreamSim([BranchConfig("x", "resnet18")])  # timm's default weights, which are not in the cache
    assert DreamSim([BranchConfig(**CNN)], pretrained=False).ensemble.configs[0].weights is None


def test_the_record_in_a_card_is_never_opened(tmp_path: Path) -> None:
    config = BranchConfig(**CNN, weights=TowerWeights(str(tmp_path / "nowhere.pth"), sha256="0" * 64))
    file = tmp_path / "metric.safetensors"
    DreamSim(Ensemble([config])).save(file)
    assert DreamSim(file).ensemble.configs[0].weights == config.weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "package:name-only"}, "names no file"),
        ({"weights": "package:/tower.pth"}, "names no file"),
        ({"weights": "package:timm/../tower.pth"}, "names no file"),
        ({"weights": "package:timm//tmp/tower.pth"}, "names no file"),
        ({"weights": "hf-hub:owner/"}, "names no file"),
        ({"weights": "."}, "there are no weights '.'"),
        ({"weights": ""}, "the place of weights"),
        ({"weights": "a.pth", "tag": "dino"}, "give one of them"),
        ({"weights": "nowhere.pth"}, "there are no weights 'nowhere.pth'"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        DreamSim([BranchConfig(**CNN, **options)])
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        TowerWeights("a.pth", sha256="abc")
    with pytest.raises(ValueError, match="by 'name' or by 'order'"):
        TowerWeights("a.pth", by="shape")  # type: ignore[arg-type]


def test_what_timm_fetched_is_recorded_from_the_cache(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from dreamsim_guidance.metric import base_weights

    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(base_weights, "hub_available", lambda: True)
    create = timm.create_model

    def fetch(name: str, pretrained: bool, **options: Any) -> Any:
        assert pretrained and name == "resnet18.a1_in1k"
        (snapshot / "model.safetensors").write_bytes(b"what timm downloads")
        return create("resnet18", pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    config = Branch(BranchConfig("x", "resnet18", image_size=32, tag="a1_in1k"), pretrained=True).config
    record: Any = config.weights
    assert config.tag is None and record.place == "hf-hub:timm/resnet18.a1_in1k/model.safetensors"
    assert record.sha256 == hashlib.sha256(b"what timm downloads").hexdigest() and record.licence == "apache-2.0"
