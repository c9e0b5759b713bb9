"""The files of a release are found in folders, zips, caches and on servers, and changes to them are noticed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from file_server import FileServer
from official_format import DINO, small, write_official, write_zip

from dreamsim_guidance.checkpoints import releases
from dreamsim_guidance.checkpoints.official import load_official
from dreamsim_guidance.files.archive import ArchiveError
from dreamsim_guidance.files.checksums import ChecksumError
from dreamsim_guidance.metric.variants import VARIANTS, Variant

pytestmark = pytest.mark.usefixtures("cache")


def path_of(variant: Variant) -> str:
    return "/" + variant.url.split("/", 3)[-1]


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
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    adapter = {f"clip_vitb32_single_lora/adapter_{end}" for end in ("config.json", "model.safetensors")}
    assert files == {"clip_vitb32_pretrain.pth.tar"} | adapter


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
    write_official(tmp_path / "clip", "clip_vitb32", depth=2, dim=32, projection=24)
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
    original, server.files[url] = server.files[url], b"<html>Sign in to the hotel's network</html>"
    with pytest.raises(ArchiveError, match=r"was removed from the cache.*not a whole zip file"):
        load_official(small("clip_vitb32"), progress=False)
    assert list(cache.iterdir()) == []
    server.files[url] = original
    load_official(small("clip_vitb32"), progress=False)


@pytest.mark.parametrize(
    "member", ["clip_vitb32_pretrain.pth.tar", "clip_vitb32_single_lora/adapter_model.safetensors"]
)
def test_a_bad_member_does_not_stay_in_the_cache(
    member: str, server: FileServer, originals: Path, tmp_path: Path, cache: Path
) -> None:
    url = path_of(VARIANTS["clip_vitb32"])
    original, spoilt = server.files[url], Path(shutil.copytree(originals, tmp_path / "spoilt"))
    (spoilt / member).write_bytes(b"not what it says" * 100)
    server.files[url] = write_zip(tmp_path / "bad.zip", spoilt, "clip_vitb32").read_bytes()
    with pytest.raises(ValueError, match=r"cannot be read|damaged"):
        load_official(small("clip_vitb32"), progress=False)
    with pytest.raises(ValueError, match=r"cannot be read|damaged"):
        load_official(small("clip_vitb32"), weights=tmp_path / "bad.zip", progress=False)
    assert not [path for path in cache.rglob("*") if path.is_file() and "lock" not in path.name]
    server.files[url] = original
    load_official(small("clip_vitb32"), progress=False)


def test_a_cache_that_the_original_filled_is_checked_for_changes_from_the_first_use_on(
    originals: Path, tmp_path: Path
) -> None:
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


def test_a_complete_cache_may_be_read_only(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    load_official(small("ensemble"), progress=False)

    def forbidden(*arguments: Any) -> None:
        raise PermissionError(*arguments)

    monkeypatch.setattr(releases, "locked", forbidden)
    monkeypatch.setattr("dreamsim_guidance.files.download.locked", forbidden)
    monkeypatch.setattr("dreamsim_guidance.files.checksums.write_json", forbidden)
    load_official(small("ensemble"), offline=True)


# What is refused -----------------------------------------------------------------------------------------------------


def test_the_error_for_an_unknown_variant_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown variant 'ensemble_v2'; known: .*ensemble.*synclr_vitb16"):
        load_official("ensemble_v2")


def test_a_missing_folder_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder or zip '.*nowhere'"):
        load_official("ensemble", weights=tmp_path / "nowhere")


def test_a_folder_of_another_variant_says_what_it_has(tmp_path: Path) -> None:
    write_official(tmp_path, "clip_vitb32", depth=2, dim=32, projection=24)
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
