"""A model goes to the Hub and comes back through huggingface_hub's own client, talking to a server of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from fake_hub import FakeHub, hub

from dreamsim_guidance.checkpoints.hub import FILE_NAME, fetch, model_card, push, write_folder_card
from dreamsim_guidance.checkpoints.model_file import read_card, write_model
from dreamsim_guidance.metric.backbones import BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble

CARD = {"name": "tiny", "source": "drawn from a seed", "licence": "MIT", "reference": {"triplets": 0.93}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    size = {"depth": 1, "embed_dim": 8, "num_heads": 2, "patch_size": 8}
    ensemble = Ensemble([BranchConfig("dino", "vit_small_patch16_224", image_size=16, overrides=size)])
    return write_model(ensemble, tmp_path / "here" / FILE_NAME, CARD)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with hub() as running:
        point_to(running.url, monkeypatch)
        yield running


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment variables HF_ENDPOINT and so on do, after huggingface_hub has been imported."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    settings = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value, raising=False)


def test_a_model_that_was_pushed_is_fetched_again(server: FakeHub, file: Path, tmp_path: Path) -> None:
    address = push(file, "someone/tiny")
    assert address == f"{server.url}/someone/tiny/commit/{server.commit('someone/tiny')}"
    assert set(server.repositories["someone/tiny"]) == {FILE_NAME, "README.md"}
    assert sum("/commit/" in request for request in server.requests) == 1  # both files, or none

    paths = [fetch("someone/tiny", cache_dir=tmp_path / "hf") for _ in range(2)]
    assert paths[0].read_bytes() == file.read_bytes()
    assert fetch("someone/tiny", cache_dir=tmp_path / "hf", local_files_only=True) == paths[0] == paths[1]
    assert sum(request.startswith("GET") and FILE_NAME in request for request in server.requests) == 1


def test_an_existing_readme_is_kept(server: FakeHub, file: Path) -> None:
    server.repositories["someone/tiny"] = {"README.md": b"my own words"}
    push(file, "someone/tiny")
    assert server.repositories["someone/tiny"]["README.md"] == b"my own words"
    assert FILE_NAME in server.repositories["someone/tiny"]


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("someone/none", None, "the Hub has no model 'someone/none', or it is private"),
        ("someone/else", None, r"the model 'someone/else' has no model\.safetensors"),
        ("someone/else", "v9", "the model 'someone/else' has no revision 'v9'"),
    ],
)
def test_errors_say_what_is_missing(
    name: str, revision: str | None, message: str, server: FakeHub, tmp_path: Path
) -> None:
    server.repositories["someone/else"] = {"other.bin": b""}
    with pytest.raises(ValueError, match=message):
        fetch(name, revision=revision, cache_dir=tmp_path / "hf")


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE", "unreachable"])
def test_offline_and_nothing_cached_names_the_address(
    how: str, server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "unreachable":
        point_to("http://127.0.0.1:9", monkeypatch)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries again for a while
    else:
        monkeypatch.setenv(how, "1")
    reason = "the Hub cannot be reached" if how == "unreachable" else "downloading is off"
    address = r"https://huggingface\.co/someone/tiny/resolve/main/model\.safetensors"
    with pytest.raises(FileNotFoundError, match=f"{reason}; get {address}"):
        fetch("someone/tiny", cache_dir=tmp_path / "hf")
    assert not server.requests


def test_a_file_that_is_no_model_of_this_package_is_not_pushed(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"something")
    with pytest.raises(ValueError, match="is truncated or no safetensors file"):
        push(tmp_path / "x.safetensors", "someone/tiny")
    assert not server.requests


def test_files_and_folders_are_taken_as_they_are(file: Path) -> None:
    assert fetch(file) == fetch(file.parent) == fetch(str(file)) == file


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors; write it with save_pretrained"):
        fetch(tmp_path)


@pytest.mark.parametrize("name", ["nowhere.safetensors", "./a/b", "../a", "/a/b", "a/b/c", ""])
def test_a_name_that_is_neither_path_nor_repository_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"no repository of the Hub|has no model\.safetensors"):
        fetch(name)


def test_the_readme_is_made_from_the_card(file: Path) -> None:
    import yaml

    readme = write_folder_card(file.parent).read_text()
    _, header, text = readme.split("---\n", 2)
    data = yaml.safe_load(header)
    assert data["library_name"] == "dreamsim_guidance" and data["license"] == "mit"
    assert "# tiny" in text and "drawn from a seed" in text
    assert "| dino | `vit_small_patch16_224` (timm) | cls | 16 |" in text
    assert "| triplets | 0.93 |" in text
    (file.parent / "README.md").write_text("my own words")
    assert write_folder_card(file.parent).read_text() == "my own words"


def test_a_licence_that_the_hub_does_not_know_is_spelled_out(file: Path) -> None:
    card = {**read_card(file), "licence": "MIT (dreamsim); the branches' own licences apply", "reference": {}}
    text = model_card(card, "someone/tiny")
    assert "license: other" in text and "Licence: MIT (dreamsim); the branches' own" in text
    assert 'from_pretrained("someone/tiny")' in text and "reference number" not in text
