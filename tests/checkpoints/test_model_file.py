"""A model file gives back the model that was written, describes it, and is refused when it is something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreamsim_guidance.checkpoints import model_file
from dreamsim_guidance.checkpoints.model_file import read_card, read_model, write_model
from dreamsim_guidance.metric.adapters import attach_adapter, fold_adapters
from dreamsim_guidance.metric.backbones import CLIP_MEAN, CLIP_STD, BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble

TINY = {"depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
CARD = {"name": "tiny", "source": "drawn from a seed", "licence": "MIT", "reference": {"triplets": 0.5}}


def tiny(hidden: int | None = None) -> Ensemble:
    dino = BranchConfig("dino", "vit_small_patch16_224", image_size=32, overrides=TINY)
    clip = BranchConfig(
        "clip",
        "vit_base_patch16_clip_quickgelu_224",
        feature="embedding",
        image_size=32,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        projection=12,
        overrides=TINY,
    )
    return Ensemble([dino, clip], hidden).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_model(tiny(), tmp_path / "tiny.safetensors", CARD)


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> None:
    """The same file with other tensors or other strings in its header."""
    with safe_open(path, framework="pt") as file:
        header = {**file.metadata(), **metadata}
    save_file(load_file(path) if tensors is None else tensors, path, header)


def edit_card(path: Path, edit: Any) -> None:
    card = read_card(path)
    edit(card)
    rewrite(path, card=json.dumps(card))


@pytest.mark.parametrize("hidden", [None, 8])
def test_a_model_is_read_back_as_it_was_written(tmp_path: Path, hidden: int | None) -> None:
    ensemble = tiny(hidden)
    write_model(ensemble, tmp_path / "m.safetensors", CARD)
    again, card = read_model(tmp_path / "m.safetensors")
    assert again.state_dict().keys() == ensemble.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ensemble.state_dict().items())
    x = torch.rand(2, 3, 32, 32)
    # not bit by bit: a matrix that was written as its transpose is multiplied by another kernel
    torch.testing.assert_close(again.eval()(x), ensemble(x), atol=1e-6, rtol=0)
    assert again.configs == ensemble.configs
    assert card["branches"] == json.loads(json.dumps([asdict(config) for config in ensemble.configs]))
    assert card["head"] == (None if hidden is None else {"hidden": hidden})


def test_the_card_is_in_the_header(path: Path) -> None:
    card = read_card(path)
    assert {key: card[key] for key in CARD} == CARD
    assert card["normalize_embeds"] is True
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "dreamsim_guidance"
        assert set(file.keys()) == set(tiny().state_dict())


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    ensemble, contents = tiny(), set()
    for i in range(8):  # safetensors has six orders of its three strings
        contents.add(write_model(ensemble, tmp_path / f"{i}.safetensors", CARD).read_bytes())
    assert len(contents) == 1


def test_half_precision_files_are_half_as_large_and_come_back_in_float32(path: Path, tmp_path: Path) -> None:
    ensemble, _ = read_model(path)
    half = write_model(ensemble, tmp_path / "half.safetensors", CARD, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * path.stat().st_size
    again, _ = read_model(half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again.eval()(x), ensemble.eval()(x), atol=2e-2, rtol=0)  # 11 bits per weight


def test_float64_ensembles_come_back_in_float64(tmp_path: Path) -> None:
    write_model(tiny().double(), tmp_path / "m.safetensors", CARD)
    again, _ = read_model(tmp_path / "m.safetensors")
    assert {p.dtype for p in again.parameters()} == {torch.float64}


def test_values_that_the_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    ensemble = tiny()
    ensemble.branches[0].backbone.norm.weight.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"norm\.weight has values that torch\.float16 cannot hold"):
        write_model(ensemble, tmp_path / "m.safetensors", CARD, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_model_outlives_its_file(path: Path) -> None:
    ensemble, _ = read_model(path)
    before = ensemble.eval()(torch.ones(1, 3, 32, 32))
    os.truncate(path, 10)
    assert torch.equal(ensemble(torch.ones(1, 3, 32, 32)), before)


def test_reading_draws_no_random_numbers(path: Path) -> None:
    state = torch.random.get_rng_state()
    read_model(path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_buffers_that_are_in_no_file_are_computed_when_a_tower_is_read(tmp_path: Path) -> None:
    """Rotary positions, window masks: buffers that are in no file and must not stay empty."""
    swin = BranchConfig(
        "swin",
        "swin_tiny_patch4_window7_224",
        feature="pooled",
        image_size=56,
        overrides={"img_size": 56, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)},
    )
    ensemble = Ensemble([swin]).eval()
    write_model(ensemble, tmp_path / "m.safetensors", CARD)
    again, _ = read_model(tmp_path / "m.safetensors")
    x = torch.rand(1, 3, 56, 56)
    assert torch.equal(again.eval()(x), ensemble(x))


def test_reading_imports_neither_peft_nor_open_clip(path: Path) -> None:
    script = (
        "import sys; from dreamsim_guidance.checkpoints.model_file import read_model; read_model(sys.argv[1]); "
        "print(sorted({'peft', 'open_clip', 'transformers', 'diffusers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fails(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(model_file, "write_tensors", fails)
    with pytest.raises(KeyboardInterrupt):
        write_model(tiny(), path, CARD)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_the_file_is_as_readable_as_the_users_files_are(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_an_adapter_is_folded_before_writing(tmp_path: Path) -> None:
    ensemble = tiny()
    attach_adapter(ensemble, rank=2)
    with pytest.raises(ValueError, match=r"an adapter is attached .*fold the adapter first"):
        write_model(ensemble, tmp_path / "m.safetensors", CARD)
    fold_adapters(ensemble)
    write_model(ensemble, tmp_path / "m.safetensors", CARD)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({k: v for k, v in CARD.items() if k != "licence"}, "the card lacks 'licence'; it needs name, branches"),
        ({**CARD, "source": None}, "'source' must be str, got None"),
        ({**CARD, "reference": 0.5}, r"'reference' must be dict, got 0\.5"),
        ({**CARD, "extra": Path("x")}, "cannot be written as JSON"),
        ({**CARD, "reference": {"nights": float("nan")}}, "cannot be written as JSON"),
    ],
)
def test_an_incomplete_card_is_not_written(tmp_path: Path, card: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_model(tiny(), tmp_path / "m.safetensors", card)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no model file '.*none\.safetensors'"):
        read_model(tmp_path / "none.safetensors")


@pytest.mark.parametrize("size", [0, 4, 500, -1])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    os.truncate(path, path.stat().st_size + size if size < 0 else size)
    with pytest.raises(ValueError, match=r"tiny\.safetensors' is truncated or no safetensors file"):
        read_model(path)


def test_another_kind_of_file_is_refused(path: Path) -> None:
    torch.save({"x": torch.zeros(100)}, path)
    with pytest.raises(ValueError, match="is truncated or no safetensors file"):
        read_model(path)


def test_a_safetensors_file_of_another_program_is_refused(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"without a card of this library \(format 'pt', needed 'dreamsim_guidance'\)"):
        read_model(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="without a card"):
        read_card(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "dreamsim_guidance", "version": "1"})
    with pytest.raises(ValueError, match="without a card"):
        read_card(path)


def test_a_later_version_is_refused(path: Path) -> None:
    rewrite(path, version="2")
    with pytest.raises(
        ValueError, match="has version '2' of the format, this library reads '1'; pip install --upgrade"
    ):
        read_model(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("branches.0.backbone.norm.bias"), r"missing: branches\.0\.backbone\.norm\.bias"),
        (lambda t: t.update({"branches.2.projection": torch.zeros(1)}), r"unexpected: branches\.2\.projection"),
        (
            lambda t: t.update({"branches.1.projection": torch.zeros(16, 3)}),
            r"branches\.1\.projection is \(16, 3\) instead of \(16, 12\)",
        ),
    ],
)
def test_tensors_that_the_card_does_not_describe_are_named(path: Path, edit: Any, message: str) -> None:
    tensors = load_file(path)
    edit(tensors)
    rewrite(path, tensors)
    with pytest.raises(ValueError, match=message):
        read_model(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("branches"), "lacks 'branches'"),
        (lambda c: c.update(branches=[]), "cannot be built"),
        (lambda c: c.update(branches=["vit"]), "needs a name and an architecture"),
        (lambda c: c["branches"][0].update(colour="red"), "has colour, which this version does not know"),
        (lambda c: c["branches"][0].update(architecture="vit_of_tomorrow"), "timm has no model 'vit_of_tomorrow'"),
        (lambda c: c["branches"][0].update(feature="smell"), "unknown feature 'smell'|cannot be built"),
        (lambda c: c["branches"][0].update(mean=[0.5]), "cannot be built"),
        (lambda c: c.update(head={"hidden": "wide"}), "'head' must be null or"),
        (lambda c: c.update(head={}), "'head' must be null or"),
        # nothing in a card may make other files be opened or fetched
        (lambda c: c["branches"][0].update(architecture="hf-hub:stranger/model"), "other files be read"),
        (lambda c: c["branches"][0].update(architecture="local-dir:/tmp/x"), "other files be read"),
        (lambda c: c["branches"][0]["overrides"].update(checkpoint_path="/tmp/x.pth"), r"read \(checkpoint_path\)"),
        (lambda c: c["branches"][0]["overrides"].update(pretrained=True), r"read \(pretrained\)"),
        (lambda c: c["branches"][0].update(overrides=[1]), r"read \(overrides\)"),
        # an architecture that would not fit any machine is noticed before memory is taken
        (lambda c: c["branches"][0]["overrides"].update(embed_dim=200_000), "wrong shape"),
    ],
)
def test_a_card_that_describes_no_model_is_refused(path: Path, edit: Any, message: str, unchecked: None) -> None:
    edit_card(path, edit)
    with pytest.raises(ValueError, match=message):
        read_model(path)


@pytest.mark.parametrize("card", ["{", "[]", "null"])
def test_a_card_that_is_no_dictionary_is_refused(path: Path, card: str) -> None:
    rewrite(path, card=card)
    with pytest.raises(ValueError, match=r"its card is not JSON|a card is a dictionary"):
        read_card(path)
