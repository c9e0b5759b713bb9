"""One model in one safetensors file, with its card in the file's header.

safetensors holds named tensors and a flat table of strings, and cannot run code. The table has

    format      "dreamsim_guidance"
    version     "1"
    card        JSON: name, branches, head, normalize_embeds, source, licence, reference, and optional further entries

and the tensors have the names of `Ensemble.state_dict()`. The card describes the architecture completely, so that a file
needs nothing else to be read; the card can be read alone, without the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dreamsim_guidance.checkpoints.card import branch_configs, check_card, parse_card
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.metric.assembly import difference, fill, skeleton
from dreamsim_guidance.metric.ensemble import Ensemble

__all__ = ["read_card", "read_model", "write_model"]

_FORMAT, _VERSION = "dreamsim_guidance", "1"


def write_model(
    ensemble: Ensemble,
    path: str | os.PathLike[str],
    card: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> Path:
    """Write `ensemble` to `path`, whole or not at all, and return the path.

    card: needs name, source and licence, and may hold whatever JSON can. branches and head are taken from the ensemble;
        `normalize_embeds` is True and `reference` empty by default.
    dtype: None for the ensemble's own precision; float16 halves the file.

    Adapters must have been folded. Raises ValueError for a card that lacks an entry or is not JSON, for an unfolded adapter,
    values that `dtype` cannot hold, and weights without values (the device "meta"); OSError if the file cannot be written.
    """
    path = Path(path)
    head = None if ensemble.head is None else {"hidden": ensemble.head.fc1.out_features}
    described = {"branches": [asdict(config) for config in ensemble.configs], "head": head}
    whole = {"normalize_embeds": True, "reference": {}, **card, **described}
    try:
        text = json.dumps(whole, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the card of '{path}' cannot be written as JSON ({error}); use plain values.") from error
    check_card(whole, path)
    tensors = {}
    for key, value in ensemble.state_dict().items():
        if ".lora_" in key:
            raise ValueError(
                f"an adapter is attached ({key}); a model file holds one set of weights: fold the adapter first, or "
                "save it on its own with save_adapter."
            )
        if value.is_meta:
            raise ValueError(
                f"{key} has no values to be written: it is on the device 'meta'; build the model on another."
            )
        stored = value.detach().cpu()
        if dtype is not None and stored.is_floating_point():
            stored = stored.to(dtype)
            if stored.isfinite().logical_not().any() and value.isfinite().all():
                raise ValueError(f"{key} has values that {dtype} cannot hold; use another dtype.")
        tensors[key] = stored.contiguous()

    with writing(path) as temporary:
        write_tensors(tensors, temporary, {"format": _FORMAT, "version": _VERSION, "card": text})
        _order_header(temporary)
    return path


def _order_header(path: Path) -> None:
    """Sort the table of strings, which safetensors shuffles: then equal models are equal files, byte by byte."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # offsets of tensors count from the end of the header, which is padded with blanks
            file.seek(8)
            file.write(text.ljust(length))


def read_model(path: str | os.PathLike[str]) -> tuple[Ensemble, dict[str, Any]]:
    """The ensemble in a model file, on the CPU, in the precision it was saved in but at least float32, and its card.

    Raises FileNotFoundError, or ValueError for a file that is damaged, of another kind or of a later version of this
    library, or whose tensors are not those that its card describes; before memory is taken for the weights.
    """
    path = Path(path)
    with _Opened(path) as file:
        card = _card(file.metadata(), path)
        # before any memory is taken: the header has the shapes
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  # no dictionary
        configs, hidden = branch_configs(card, shapes, path)
        try:
            ensemble = skeleton(configs, hidden)
        except Exception as error:  # constructors raise anything for numbers that they do not expect
            raise ValueError(f"'{path}': its card describes branches that cannot be built ({error}).") from error
        expected = {key: tensor.shape for key, tensor in ensemble.state_dict().items()}
        if problem := difference(expected, shapes):
            raise ValueError(
                f"'{path}' does not hold the tensors that its card describes ({problem}); write it again with "
                "write_model, or get it again."
            )
        tensors = {}
        for key in expected:
            tensor = file.get_tensor(key)
            # a copy: the file is mapped into memory and may be replaced while the model lives
            half = tensor.is_floating_point() and tensor.element_size() < 4
            tensors[key] = tensor.to(torch.float32 if half else tensor.dtype, copy=True)
    return fill(ensemble, tensors), card


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a model file, without reading its weights. Errors as `read_model`."""
    path = Path(path)
    with _Opened(path) as file:
        return _card(file.metadata(), path)


class _Opened:
    """`safe_open`, with its errors as FileNotFoundError and ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no model file '{self.path}'; write one with DreamSim.save.")
        try:
            self.file = safe_open(self.path, framework="pt", device="cpu")
            return self.file.__enter__()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"'{self.path}' is truncated or no safetensors file ({error}); get it again. A folder or zip of "
                "official weights is given as DreamSim(name, weights=...)."
            ) from error

    def __exit__(self, *error: Any) -> None:
        self.file.__exit__(*error)


def _card(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    metadata = metadata or {}
    if metadata.get("format") != _FORMAT or "card" not in metadata:
        raise ValueError(
            f"'{path}' is a safetensors file without a card of this library (format {metadata.get('format')!r}, needed "
            f"{_FORMAT!r}); an adapter is loaded with load_adapter from its folder."
        )
    if metadata.get("version") != _VERSION:
        raise ValueError(
            f"'{path}' has version {metadata.get('version')!r} of the format, this library reads {_VERSION!r}; "
            "pip install --upgrade dreamsim-guidance."
        )
    return parse_card(metadata["card"], path)
