"""Shift-tolerant LPIPS from a file in the published layout; with random weights, and with the published ones where they are."""

from __future__ import annotations

import os
import pickle
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.losses import LPIPS
from dreamsim_guidance.losses.shift_tolerant import ShiftTolerantAlexNet, has_shift_tolerant, read_shift_tolerant
from dreamsim_guidance.metric import TowerWeights


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Random weights under the published names, with positive linear weights and the published blur."""
    torch.manual_seed(0)
    state = ShiftTolerantAlexNet().state_dict()
    for name, value in state.items():
        if name.endswith("filt"):
            row = torch.tensor([1.0, 2.0, 1.0]) / 4
            state[name] = (row[:, None] * row).expand_as(value).clone()
        elif name.startswith("lin"):
            state[name] = value.abs()
    torch.save(state, tmp_path / "alex_shift_tolerant.pth")
    return tmp_path / "alex_shift_tolerant.pth"


def test_the_names_are_those_of_the_published_file() -> None:
    shapes = {name: tuple(value.shape) for name, value in ShiftTolerantAlexNet().state_dict().items()}
    assert len(shapes) == 20
    assert shapes["net.slice2.4.filt"] == (64, 1, 3, 3) and shapes["net.slice3.9.weight"] == (384, 192, 3, 3)
    assert shapes["net.slice5.13.bias"] == (256,) and shapes["lin1.model.1.weight"] == (1, 192, 1, 1)


def test_feature_maps_are_halved_three_times(file: Path) -> None:
    with torch.no_grad():
        maps = read_shift_tolerant(file).net(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 30, 30), (192, 15, 15), (384, 8, 8), (256, 8, 8), (256, 8, 8)]


def test_the_blur_removes_the_finest_stripes(file: Path) -> None:
    stripes = torch.arange(8).remainder(2).float().mul(2).sub(1).expand(1, 64, 8, 8)
    halved = read_shift_tolerant(file).net.slice1[1](stripes)
    assert halved.abs().max() < 1e-6


def test_the_distance_is_a_loss(file: Path) -> None:
    x, y = torch.rand(2, 3, 33, 40, requires_grad=True), torch.rand(2, 3, 33, 40)
    loss = LPIPS(network=file)
    loss(x, y).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() > 0
    assert torch.equal(loss(y, y), torch.zeros(2))
    assert torch.allclose(LPIPS(y, network=file)(x), loss(x, y))
    assert not list(loss.parameters()) and not loss.state_dict()


def test_the_wheel_is_read_without_unpacking(file: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "stlpips_pytorch-0.0.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth")
    x, y = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(LPIPS(network=wheel)(x, y), LPIPS(network=file)(x, y))


class _Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(1)}, [], _Hostile(), "text", "no zip"])
def test_files_with_something_else_are_refused_by_name(tmp_path: Path, content: object) -> None:
    path = tmp_path / ("other.whl" if content == "no zip" else "other.pth")
    path.write_bytes(b"nothing" if isinstance(content, str) else b"")
    if isinstance(content, _Hostile):
        path.write_bytes(pickle.dumps(content))
    elif not isinstance(content, str):
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"other\.(pth|whl)' does not hold the AlexNet of stlpips-pytorch"):
        LPIPS(network=path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        LPIPS(network=tmp_path / "none.pth")


@pytest.mark.skipif(find_spec("stlpips_pytorch") is None, reason="the extra [losses] is not installed")
def test_published_weights_give_the_value_of_the_original_package() -> None:
    # stlpips.LPIPS(net="alex", variant="shift_tolerant")(a, b, normalize=True) of the package, PyTorch 2.14
    a, b = (photograph(name)[..., :128, :128] for name in ("astronaut", "chelsea"))
    assert float(LPIPS(network="shift-tolerant")(a, b)) == pytest.approx(0.8710184, abs=1e-5)


@pytest.mark.parametrize("missing", ["package", "file"])
def test_a_missing_package_is_seen_and_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def locate(weights: TowerWeights, files: tuple[str, ...] = ()) -> Any:
        raise (ModuleNotFoundError if missing == "package" else FileNotFoundError)(weights.place)

    monkeypatch.setattr(TowerWeights, "locate", locate)
    assert not has_shift_tolerant()
    with pytest.raises(ImportError, match=r'needs the extra "losses", pip install "dreamsim-guidance\[losses\]"'):
        LPIPS(network="shift-tolerant")
