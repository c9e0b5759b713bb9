"""A model goes to the Hub and comes back through huggingface_hub's own client, talking to a server of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, hub

from dreamsim_guidance.backbones import BranchConfig
from dreamsim_guidance.ensemble import Ensemble
from dreamsim_guidance.hub import FILE_NAME, fetch, model_card, write_folder_card
from dreamsim_guidance.model_file import read_card, write_model

CARD = {"name": "tiny", "source": "drawn from a seed", "licence": "MIT", "reference": {"triplets": 0.93}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    size = {"depth": 1, "embed_dim": 8, "num_heads": 2, "patch_size": 8}
    ensemble = Ensemble([BranchConfig("dino", "vit_small_patch16_224", image_size=16, overrides=size)])
    return write_model(ensemble, tmp_path / "here" / FILE_NAME, CARD)


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with hub() as running:
        yield running


def run(script: str, server_url: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE")}
    settings = {
        "HF_ENDPOINT": server_url,
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": "hf_test",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**kept, **settings, **environment}
    )


def test_a_model_that_was_pushed_is_fetched_again(server: FakeHub, file: Path, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from dreamsim_guidance.hub import fetch, push
print(push({str(file)!r}, "someone/tiny"))
for _ in range(2):
    path = fetch("someone/tiny")
assert path.read_bytes() == Path({str(file)!r}).read_bytes()
assert fetch("someone/tiny", local_files_only=True) == path
"""
    done = run(script, server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    files = server.repositories["someone/tiny"]
    assert set(files) == {FILE_NAME, "README.md"}
    assert done.stdout.strip() == f"{server.url}/someone/tiny/commit/{server.commit('someone/tiny')}"
    assert sum("/commit/" in request for request in server.requests) == 1  # both files, or none
    assert sum(request.startswith("GET") and FILE_NAME in request for request in server.requests) == 1


def test_a_readme_that_is_there_is_kept(server: FakeHub, file: Path, tmp_path: Path) -> None:
    server.repositories["someone/tiny"] = {"README.md": b"my own words"}
    done = run(f"from dreamsim_guidance.hub import push; push({str(file)!r}, 'someone/tiny')", server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert server.repositories["someone/tiny"]["README.md"] == b"my own words"
    assert FILE_NAME in server.repositories["someone/tiny"]


def test_errors_say_what_is_missing(server: FakeHub, tmp_path: Path) -> None:
    server.repositories["someone/else"] = {"other.bin": b""}
    script = """
from dreamsim_guidance.hub import fetch
for name, revision in (("someone/none", None), ("someone/else", None), ("someone/else", "v9")):
    try:
        fetch(name, revision=revision)
    except ValueError as error:
        print(error)
"""
    done = run(script, server.url, tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert "the Hub has no model 'someone/none', or it is private" in first
    assert "the model 'someone/else' has no model.safetensors" in second
    assert "the model 'someone/else' has no revision 'v9'" in third


@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "DREAMSIM_GUIDANCE_OFFLINE", "unreachable"])
def test_offline_and_nothing_cached_names_the_address(how: str, server: FakeHub, tmp_path: Path) -> None:
    script = """
from dreamsim_guidance.hub import fetch
try:
    fetch("someone/tiny")
except FileNotFoundError as error:
    print(error)
"""
    environment = {} if how == "unreachable" else {how: "1"}
    url = "http://127.0.0.1:9" if how == "unreachable" else server.url
    done = run(script, url, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "https://huggingface.co/someone/tiny/resolve/main/model.safetensors" in done.stdout
    assert ("the Hub cannot be reached" if how == "unreachable" else "downloading is off") in done.stdout
    assert not server.requests


def test_what_is_no_model_of_ours_is_not_pushed(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"something")
    script = f"from dreamsim_guidance.hub import push; push({str(tmp_path / 'x.safetensors')!r}, 'someone/tiny')"
    done = run(script, server.url, tmp_path)
    assert "is truncated or no safetensors file" in done.stderr
    assert not server.requests


def test_files_and_folders_are_taken_as_they_are(file: Path) -> None:
    assert fetch(file) == fetch(file.parent) == fetch(str(file)) == file


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors; write it with save_pretrained"):
        fetch(tmp_path)


@pytest.mark.parametrize("name", ["nowhere.safetensors", "./a/b", "../a", "/a/b", "a/b/c", ""])
def test_what_is_neither_path_nor_repository_is_refused(
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


def test_torch_is_all_that_reading_the_card_needs(file: Path) -> None:
    assert read_card(file)["reference"] == CARD["reference"]
    assert torch.is_grad_enabled()
