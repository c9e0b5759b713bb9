"""Official weights are found wherever they may be, read exactly, and refused when they are something else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from file_server import FileServer, serve
from official_format import small, write_official, write_zip
from safetensors.torch import load_file, save_file

from dreamsim_guidance.checkpoints import releases
from dreamsim_guidance.checkpoints.official import load_official
from dreamsim_guidance.checkpoints.releases import BASE_FILES
from dreamsim_guidance.files.archive import ArchiveError
from dreamsim_guidance.files.checksums import ChecksumError
from dreamsim_guidance.metric import variants
from dreamsim_guidance.metric.adapters import load_adapter
from dreamsim_guidance.metric.variants import VARIANTS, Variant

SMALL = {"depth": 2, "dim": 32, "projection": 24}
DINO = "checkpoints/dino_vitbase16_pretrain.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a torch.hub folder of the test's own, online unless it says otherwise."""
    for name in ("HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch_hub"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with all eight variants, as the original's `cache_dir` would be after using each."""
    folder = tmp_path_factory.mktemp("official")
    for name in VARIANTS:
        write_official(folder, name, **SMALL, student=True)
    return folder


@pytest.fixture
def official(originals: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(originals, tmp_path / "official"))


@pytest.fixture
def server(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Both hosts of the real files in one."""
    with serve() as running:
        monkeypatch.setattr(variants, "RELEASES", running.url)
        local = {
            name: replace(base, url=f"{running.url}/{base.name}" if base.url else None)
            for name, base in BASE_FILES.items()
        }
        monkeypatch.setattr(releases, "BASE_FILES", local)
        for name in ("ensemble", "clip_vitb32"):
            archive = write_zip(tmp_path / "served.zip", originals, name)
            running.files["/" + VARIANTS[name].url.split("/", 3)[-1]] = archive.read_bytes()
            archive.unlink()
        running.files["/dino_vitbase16_pretrain.pth"] = (originals / DINO).read_bytes()
        yield running


def path_of(variant: Variant) -> str:
    return "/" + variant.url.split("/", 3)[-1]


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


@pytest.mark.parametrize("place", ["", "checkpoints/"])
def test_dinos_file_is_found_in_a_folder_with_or_without_checkpoints(official: Path, place: str) -> None:
    os.replace(official / DINO, official / "moved")
    os.replace(official / "moved", official / f"{place}dino_vitbase16_pretrain.pth")
    load_official(small("dino_vitb16"), weights=official, offline=True)


def test_dinos_file_is_found_where_torch_hub_keeps_it(official: Path, tmp_path: Path) -> None:
    target = tmp_path / "torch_hub" / DINO
    target.parent.mkdir(parents=True)
    os.replace(official / DINO, target)
    assert load_official(small("dino_vitb16"), weights=official, offline=True).files["dino_vitb16"] == target


# Zips ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "models/"])
def test_a_local_zip_is_unpacked_once_into_the_cache(originals: Path, tmp_path: Path, cache: Path, inside: str) -> None:
    archive = write_zip(tmp_path / "my.zip", originals, "clip_vitb32", inside)
    for _ in range(2):
        checkpoint = load_official(small("clip_vitb32"), weights=archive, offline=True)
    assert checkpoint.adapter is not None and cache in checkpoint.adapter.parents
    (folder,) = (cache / "archives").iterdir()
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    adapter = {f"clip_vitb32_single_lora/adapter_{end}" for end in ("config.json", "model.safetensors")}
    assert found == {"clip_vitb32_pretrain.pth.tar"} | adapter


def test_a_zip_without_dinos_file_says_where_to_put_it(originals: Path, tmp_path: Path, cache: Path) -> None:
    archive = write_zip(tmp_path / "my.zip", originals, "ensemble")
    with pytest.raises(FileNotFoundError) as caught:
        load_official(small("ensemble"), weights=archive, offline=True)
    assert f"dino_vitbase16_pretrain.pth\n    -> {cache}/{DINO}" in str(caught.value)
    assert "dreamsim_ensemble_checkpoint.zip" not in str(caught.value)
    (cache / DINO).parent.mkdir(parents=True)
    shutil.copy(originals / DINO, cache / DINO)
    load_official(small("ensemble"), weights=archive, offline=True)


def test_dinos_file_may_lie_beside_the_zip(originals: Path, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "my.zip", originals, "ensemble")
    shutil.copy(originals / DINO, tmp_path)
    load_official(small("ensemble"), weights=archive, offline=True)


def test_a_corrupt_zip_is_refused_and_leaves_the_cache_clean(originals: Path, tmp_path: Path, cache: Path) -> None:
    archive = write_zip(tmp_path / "my.zip", originals, "clip_vitb32")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 255
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"my\.zip is not a whole zip file"):
        load_official(small("clip_vitb32"), weights=archive, offline=True)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert list((cache / "archives").iterdir()) == []


def test_the_zip_of_another_variant_is_refused(originals: Path, tmp_path: Path) -> None:
    write_official(tmp_path / "clip", "clip_vitb32", **SMALL)
    archive = write_zip(tmp_path / "my.zip", tmp_path / "clip", "clip_vitb32")
    with pytest.raises(ArchiveError, match=r"has no synclr_vit_b_16\.pth.*it has clip_vitb32_pretrain\.pth\.tar"):
        load_official(small("synclr_vitb16"), weights=archive, offline=True)


# Downloads -----------------------------------------------------------------------------------------------------------


def test_a_variant_is_downloaded_once(server: FileServer, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        checkpoint = load_official(small("ensemble"), progress=False)
    assert len(server.requests) == 2  # the release and DINO's file
    assert load_official(small("ensemble"), offline=True).files == checkpoint.files
    left = {path.name for path in cache.iterdir()}
    assert "dreamsim_ensemble_checkpoint.zip" not in left  # unpacked; twice the space otherwise
    assert "dino_vitb16_pretrain.pth" not in left
    assert not any(name.endswith((".part", ".lock", ".extracting")) for name in left)
    assert capsys.readouterr().out == ""


def test_the_current_folder_stays_as_it_is(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    load_official(small("ensemble"), progress=False)
    assert os.listdir(tmp_path / "here") == []


def test_the_originals_cache_folder_is_a_cache(originals: Path) -> None:
    load_official(small("ensemble"), cache_dir=originals, offline=True)


def test_a_changed_file_in_the_cache_is_noticed_and_can_be_fetched_again(server: FileServer, cache: Path) -> None:
    load_official(small("clip_vitb32"), progress=False)
    path = cache / "clip_vitb32_pretrain.pth.tar"
    data = bytearray(path.read_bytes())
    data[-5000] ^= 255
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match=f"Delete {path} to get it again"):
        load_official(small("clip_vitb32"), progress=False)
    path.unlink()
    load_official(small("clip_vitb32"), progress=False)


def test_another_release_than_last_time_is_noticed(server: FileServer, cache: Path) -> None:
    load_official(small("clip_vitb32"), progress=False)
    (cache / "clip_vitb32_pretrain.pth.tar").unlink()
    server.files[path_of(VARIANTS["clip_vitb32"])] += b"comment"
    with pytest.raises(ChecksumError, match="recorded for the same file earlier"):
        load_official(small("clip_vitb32"), progress=False)


def test_a_download_that_is_no_zip_is_removed_and_asked_for_again(server: FileServer, cache: Path) -> None:
    url = path_of(VARIANTS["clip_vitb32"])
    good, server.files[url] = server.files[url], b"<html>Sign in to the hotel's network</html>"
    with pytest.raises(ArchiveError, match=r"was removed from the cache.*not a whole zip file"):
        load_official(small("clip_vitb32"), progress=False)
    assert list(cache.iterdir()) == []
    server.files[url] = good
    load_official(small("clip_vitb32"), progress=False)


@pytest.mark.parametrize("bad", ["clip_vitb32_pretrain.pth.tar", "clip_vitb32_single_lora/adapter_model.safetensors"])
def test_a_bad_member_does_not_stay_in_the_cache(
    bad: str, server: FileServer, originals: Path, tmp_path: Path, cache: Path
) -> None:
    url = path_of(VARIANTS["clip_vitb32"])
    good, spoilt = server.files[url], Path(shutil.copytree(originals, tmp_path / "spoilt"))
    (spoilt / bad).write_bytes(b"not what it says" * 100)
    server.files[url] = write_zip(tmp_path / "bad.zip", spoilt, "clip_vitb32").read_bytes()
    with pytest.raises(ValueError, match=r"cannot be read|damaged"):
        load_official(small("clip_vitb32"), progress=False)
    with pytest.raises(ValueError, match=r"cannot be read|damaged"):
        load_official(small("clip_vitb32"), weights=tmp_path / "bad.zip", progress=False)
    assert not [path for path in cache.rglob("*") if path.is_file() and "lock" not in path.name]
    server.files[url] = good
    load_official(small("clip_vitb32"), progress=False)


def test_a_cache_that_the_original_filled_is_watched_from_the_first_use_on(originals: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(originals, tmp_path / "models"))
    load_official(small("clip_vitb32"), cache_dir=folder)
    data = bytearray((folder / "clip_vitb32_pretrain.pth.tar").read_bytes())
    data[-5000] ^= 255
    (folder / "clip_vitb32_pretrain.pth.tar").write_bytes(data)
    with pytest.raises(ChecksumError, match="the file changed or is damaged"):
        load_official(small("clip_vitb32"), cache_dir=folder)


def test_a_cache_of_the_first_releases_is_refused_with_the_reason(cache: Path) -> None:
    (cache / "clip_vitb32_lora").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"release of dreamsim 0\.1\.x"):
        load_official(small("clip_vitb32"), offline=True)


def test_a_zip_that_a_person_put_into_the_cache_is_used(originals: Path, cache: Path) -> None:
    cache.mkdir()
    archive = write_zip(cache / "dreamsim_clip_vitb32_checkpoint.zip", originals, "clip_vitb32")
    load_official(small("clip_vitb32"), offline=True)
    assert archive.exists()


@pytest.mark.parametrize("how", ["argument", "HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE"])
def test_offline_and_nothing_cached_names_address_and_folder(
    how: str, server: FileServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "argument":
        monkeypatch.setenv(how, "1")
    with pytest.raises(FileNotFoundError) as caught:
        load_official(small("ensemble"), offline=True if how == "argument" else None)
    text = str(caught.value)
    zip_name = "dreamsim_ensemble_checkpoint.zip"
    assert f"{server.url}/v0.2.0-checkpoints/{zip_name}\n    -> {cache}/{zip_name}" in text
    assert f"{server.url}/dino_vitbase16_pretrain.pth\n    -> {cache}/{DINO}" in text
    assert not server.requests and not cache.exists()


def test_a_whole_cache_may_be_read_only(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    load_official(small("ensemble"), progress=False)

    def forbidden(*arguments: Any) -> None:
        raise PermissionError(*arguments)

    monkeypatch.setattr(releases, "locked", forbidden)
    monkeypatch.setattr("dreamsim_guidance.files.download.locked", forbidden)
    monkeypatch.setattr("dreamsim_guidance.files.checksums.write_json", forbidden)
    load_official(small("ensemble"), offline=True)


# What is refused -----------------------------------------------------------------------------------------------------


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'ensemble_v2'; known: .*ensemble.*synclr_vitb16"):
        load_official("ensemble_v2")


def test_a_missing_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder or zip '.*nowhere'"):
        load_official("ensemble", weights=tmp_path / "nowhere")


def test_a_folder_of_another_variant_says_what_it_has(tmp_path: Path) -> None:
    write_official(tmp_path, "clip_vitb32", **SMALL)
    with pytest.raises(FileNotFoundError, match=r"lacks synclr_vit_b_16\.pth.*it has clip_vitb32_single_lora"):
        load_official(small("synclr_vitb16"), weights=tmp_path)


def test_the_first_releases_are_refused_with_the_reason(originals: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar", "dino_vitb16_pretrain.pth"):
        shutil.copy(originals / name, folder)
    for name in ("dino_vitb16", "clip_vitb16", "open_clip_vitb16"):
        (folder / f"{name}_lora").mkdir()
        (folder / f"{name}_lora" / "adapter_model.bin").write_bytes(b"")
        (folder / f"{name}_lora" / "adapter_config.json").write_text('{"enable_lora": null}')
    reason = r"dreamsim 0\.1\.x .*weights are others.*normalised before they were centred.*peft 0\.1\.0.*v0\.2\.0-check"
    with pytest.raises(ValueError, match=reason):
        load_official(small("ensemble"), weights=folder, offline=True)
    archive = shutil.make_archive(str(tmp_path / "dreamsim_checkpoint"), "zip", folder)
    with pytest.raises(ValueError, match=reason):
        load_official(small("ensemble"), weights=archive, offline=True)


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


def test_files_of_pytorch_before_1_6_are_read(official: Path) -> None:
    content = stored(official, DINO)
    torch.save(content, official / DINO, _use_new_zipfile_serialization=False)
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
