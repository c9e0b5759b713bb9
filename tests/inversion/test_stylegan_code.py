"""`load_stylegan`: the user's own code builds the network, and leaves no trace among the modules."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import stylegan_checkout as stand_in
import torch

from dreamsim_guidance.inversion import load_stylegan

TWO = {"z_dim": 5, "img_resolution": 16, "mapping_kwargs": {"bias": True}}
THREE = {"z_dim": 5, "sizes": [4, 8], "cutoff": 2.5}
BOTH = {"networks_stylegan2": stand_in.STYLEGAN2, "networks_stylegan3": stand_in.STYLEGAN3}


@pytest.mark.parametrize(("name", "settings"), [("networks_stylegan2", TWO), ("networks_stylegan3", THREE)])
def test_the_generator_is_the_one_that_was_written(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    code = stand_in.checkout(tmp_path / "code", **BOTH)
    written = stand_in.write(tmp_path / "G.pkl", code, name, 4, "raise SystemExit", **settings)
    random = torch.get_rng_state()
    generator = load_stylegan(tmp_path / "G.pkl", code=code)
    assert torch.equal(random, torch.get_rng_state())
    z = torch.randn(3, 5)
    assert torch.equal(generator(z), written(z))
    assert not generator.training and not any(parameter.requires_grad for parameter in generator.parameters())
    assert torch.equal(copy.deepcopy(generator)(z), written(z))


@pytest.fixture
def other_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another project's `training`, imported and first on the path, as this repository's root would be."""
    (tmp_path / "ours" / "training").mkdir(parents=True)
    (tmp_path / "ours" / "training" / "__init__.py").write_text("raise ImportError('the wrong training')")
    monkeypatch.syspath_prepend(str(tmp_path / "ours"))
    for name in ("training", "training.loop", "dnnlib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return tmp_path / "ours"


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_of_the_code_and_other_projects_stay(
    tmp_path: Path, request: pytest.FixtureRequest, fails: bool
) -> None:
    text = (
        "import sys\nsys.path.append('added')\n" + stand_in.STYLEGAN2 + ("raise ImportError('click')" if fails else "")
    )
    code = stand_in.checkout(tmp_path / "code", networks=stand_in.STYLEGAN2)
    stand_in.write(tmp_path / "G.pkl", code, "networks", 4, "raise SystemExit", **TWO)
    (code / "training" / "networks.py").write_text(text + "\n")
    other_training = request.getfixturevalue("other_training")  # after the file was written
    modules, path = dict(sys.modules), [*sys.path]
    assert path[0] == str(other_training)
    if fails:
        with pytest.raises(ImportError, match="click"):
            load_stylegan(tmp_path / "G.pkl", code=code)
    else:
        load_stylegan(tmp_path / "G.pkl", code=code)
    assert sys.path == path
    assert {name: sys.modules.get(name) for name in modules} == modules
    assert not [name for name in sys.modules if name.partition(".")[0] in ("torch_utils", "legacy")]


def test_two_checkouts_do_not_mix(tmp_path: Path) -> None:
    first = stand_in.checkout(tmp_path / "one", networks=stand_in.STYLEGAN2)
    stand_in.write(tmp_path / "G.pkl", first, "networks", 4, "raise SystemExit", **TWO)
    doubled = stand_in.STYLEGAN2.replace("return self.b4(", "return 2 * self.b4(")
    second = stand_in.checkout(tmp_path / "two", networks=doubled)
    z = torch.randn(3, 5)
    one, two = (load_stylegan(tmp_path / "G.pkl", code=code)(z) for code in (first, second))
    assert torch.equal(2 * one, two)


def test_the_code_in_the_file_does_not_run(tmp_path: Path) -> None:
    code = stand_in.checkout(tmp_path / "code", networks=stand_in.STYLEGAN2)
    ran = tmp_path / "ran"
    stand_in.write(tmp_path / "G.pkl", code, "networks", 4, f"open({str(ran)!r}, 'w').close()", **TWO)
    copy.deepcopy(load_stylegan(tmp_path / "G.pkl", code=code))
    assert not ran.exists()


@pytest.mark.parametrize("name", ["torch", "np", "__builtins__", "persistence", "__import__", "Missing"])
def test_only_networks_of_the_code_are_built(tmp_path: Path, name: str) -> None:
    code = stand_in.checkout(tmp_path / "code", networks=stand_in.STYLEGAN2)
    stand_in.write(tmp_path / "G.pkl", code, "networks", 4, "raise SystemExit", **TWO)
    content = (tmp_path / "G.pkl").read_bytes()
    (code / "training" / "networks.py").write_text(stand_in.STYLEGAN2.replace("Generator", "Other"))
    with pytest.raises(ValueError, match=r"networks\.py has no network 'Generator'"):
        load_stylegan(tmp_path / "G.pkl", code=code)
    (code / "training" / "networks.py").write_text(stand_in.STYLEGAN2)
    at = content.index(b"\x8c\x09Generator")
    unframed = content[:2] + content[11:at] + b"\x8c" + bytes([len(name)]) + name.encode() + content[at + 11 :]
    (tmp_path / "G.pkl").write_bytes(unframed)
    with pytest.raises(ValueError, match=f"no network '{name}'"):
        load_stylegan(tmp_path / "G.pkl", code=code)


def test_a_file_of_another_network_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    code = stand_in.checkout(tmp_path / "three", **BOTH)
    stand_in.write(tmp_path / "G.pkl", code, "networks_stylegan3", 4, "raise SystemExit", **THREE)
    old = stand_in.checkout(tmp_path / "two", networks=stand_in.STYLEGAN2)
    with pytest.raises(ValueError, match=r"fits no network in .*networks\.py: .*sizes"):
        load_stylegan(tmp_path / "G.pkl", code=old)


def test_a_folder_without_the_code_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no training/networks\*\.py; give the folder of a checkout"):
        load_stylegan(tmp_path / "G.pkl", code=tmp_path)
