"""Folders, zips and a server with releases in the original's format, of narrow towers with random weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from file_server import FileServer, serve
from official_format import DINO, write_official, write_zip

from dreamsim_guidance.checkpoints import releases
from dreamsim_guidance.checkpoints.releases import BASE_FILES
from dreamsim_guidance.metric import variants
from dreamsim_guidance.metric.variants import VARIANTS


@pytest.fixture
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
        write_official(folder, name, depth=2, dim=32, projection=24, student=True)
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
