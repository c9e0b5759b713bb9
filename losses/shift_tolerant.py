"""The AlexNet of shift-tolerant LPIPS, read from its published weights; `LPIPS(network="shift-tolerant")` uses it.

Every stride is preceded by a blur, so that an image moved by a pixel keeps its features. The weights are those of the Python
package stlpips-pytorch 0.0.2 (BSD 2-clause), part of the extra `losses`; its own code is neither needed nor imported. They were
trained on the human judgments of BAPPS.

Ghildyal and Liu, Shift-tolerant perceptual similarity metric, ECCV 2022.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.metric.tower_weights import TowerWeights

__all__ = ["ShiftTolerantAlexNet", "has_shift_tolerant", "installed_shift_tolerant", "read_shift_tolerant"]

_MEMBER = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"


def has_shift_tolerant() -> bool:
    """Whether the package with the weights is installed."""
    try:
        installed_shift_tolerant()
    except ImportError:
        return False
    return True


def installed_shift_tolerant() -> Path:
    """The file with the weights in the installed package. Raises ImportError, with the pip command, if it is not installed."""
    try:
        path, _ = TowerWeights(f"package:stlpips-pytorch/{_MEMBER}").locate()
    except (ModuleNotFoundError, FileNotFoundError) as error:  # not installed, or another version
        raise ImportError(
            f'shift-tolerant LPIPS needs the extra "losses", pip install "dreamsim-guidance[losses]": {error}'
        ) from error
    return path


def read_shift_tolerant(file: str | os.PathLike[str]) -> ShiftTolerantAlexNet:
    """The network with the weights of a file: alex_shift_tolerant.pth, or the wheel of stlpips-pytorch 0.0.2 that holds it.

    Nothing in the file is executed. Raises OSError if there is no such file, ValueError if it holds other weights.
    """
    path = Path(file)
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel, wheel.open(_MEMBER) as member:
                weights = torch.load(member, map_location="cpu", weights_only=True)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        network = ShiftTolerantAlexNet()
        network.load_state_dict(weights)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"'{path}' does not hold the AlexNet of stlpips-pytorch 0.0.2 ({type(error).__name__}); give its "
            "alex_shift_tolerant.pth, or its wheel."
        ) from error
    return network


class ShiftTolerantAlexNet(nn.Module):
    """Five feature maps of images in [-1, 1], and the weights of their differences, under the names of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _Trunk()
        for i, channels in enumerate((64, 192, 384, 256, 256)):
            self.add_module(f"lin{i}", _Linear(channels))

    @property
    def lins(self) -> list[nn.Module]:
        """The weighted sums over channels, one for each feature map."""
        return [self.get_submodule(f"lin{i}") for i in range(5)]


class _Scaling(nn.Module):
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.shift) / self.scale


class _Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        relu, pool = nn.ReLU(), nn.MaxPool2d(3, 1)
        # the numbers of the layers are those of the published file
        self.slice1 = _numbered(0, nn.Conv2d(3, 64, 11, padding=2), _Halved(64), relu)
        self.slice2 = _numbered(3, pool, _Halved(64), nn.Conv2d(64, 192, 5, padding=2), relu)
        self.slice3 = _numbered(7, pool, _Halved(192), nn.Conv2d(192, 384, 3, padding=1), relu)
        self.slice4 = _numbered(11, nn.Conv2d(384, 256, 3, padding=1), relu)
        self.slice5 = _numbered(13, nn.Conv2d(256, 256, 3, padding=1), relu)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for part in self.children():
            x = part(x)
            maps.append(x)
        return maps


class _Halved(nn.Module):
    """Blur, then every second row and column."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class _Linear(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _numbered(first: int, *layers: nn.Module) -> nn.Sequential:
    sequence = nn.Sequential()
    for i, layer in enumerate(layers, first):
        sequence.add_module(str(i), layer)
    return sequence
