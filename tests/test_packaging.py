import subprocess
import sys
from pathlib import Path

import pytest

import dreamsim_guidance

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_on_disk_is_installed() -> None:
    folders = PROJECT["tool"]["setuptools"]["package-dir"]
    inside = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in (ROOT / "dreamsim_guidance").rglob("__init__.py")
        if not any(parent.is_symlink() for parent in p.parents)
    }
    outside = {
        ".".join((name, *p.parent.relative_to(ROOT / folder).parts))
        for name, folder in folders.items()
        for p in (ROOT / folder).rglob("__init__.py")
    }
    assert inside | outside == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_file_beside_the_code_is_installed() -> None:
    folders, data = PROJECT["tool"]["setuptools"]["package-dir"], PROJECT["tool"]["setuptools"]["package-data"]
    home = {package: ROOT / folders.get(package, package.replace(".", "/")) for package in data}
    listed = {file for package, globs in data.items() for glob in globs for file in home[package].glob(glob)}
    on_disk = {file for folder in ("dreamsim_guidance", *folders.values()) for file in (ROOT / folder).rglob("*")}
    beside = {file for file in on_disk if file.is_file() and file.suffix not in {".py", ".pyc"}}
    assert beside == {file for file in listed if file.is_file() and file.suffix not in {".py", ".pyc"}}


@pytest.mark.parametrize("folder", ["losses", "recipes", "training"])
def test_root_folders_refuse_their_bare_name(folder: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "import it by that name" in run.stderr


def test_every_public_name_can_be_imported() -> None:
    assert all(getattr(dreamsim_guidance, name) is not None for name in dreamsim_guidance.__all__)
    assert {"DreamSim", "MPGD", "differentiable", "dreamsim", "guide", "load_image", "plan"} <= set(
        dreamsim_guidance.__all__
    )
    with pytest.raises(AttributeError, match="attribute nothing"):
        dreamsim_guidance.nothing  # noqa: B018


LIGHT = """
import sys
import dreamsim_guidance
from dreamsim_guidance import DreamSim
print([name for name in ("diffusers", "transformers", "peft", "open_clip", "kornia", "matplotlib") if name in sys.modules])
"""


def test_importing_the_library_imports_no_heavy_package() -> None:
    run = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
