"""The published weights of DreamSim, read into our modules.

The base weights come in four dialects of one naming scheme, DINO's, which timm's Vision Transformer shares but for:

    CLIP, OpenCLIP   under "state_dict"; `pos_drop` is CLIP's ln_pre (timm: `norm_pre`), `proj` the output projection
    SynCLR           under "model", with "module.visual." before every name
    DINOv2           `mask_token`, which only its training needs

Files are pickles; they are opened with PyTorch's restricted unpickler, which makes tensors and plain containers only.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.checkpoints.releases import BASE_FILES, BaseFile, ReleaseFiles, find_release
from dreamsim_guidance.metric.adapter_files import read_adapter
from dreamsim_guidance.metric.assembly import difference, fill, skeleton
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import Variant
from dreamsim_guidance.metric.variants import variant as variant_named

__all__ = ["OfficialCheckpoint", "load_official"]


@dataclass(frozen=True)
class OfficialCheckpoint:
    """A published variant: `ensemble` with base weights in float32 on the CPU, the adapter's folder, the files used.

    The adapter is not attached yet: `adapters.load_adapter(ensemble, adapter)` does that. It is None for
    `pretrained=False`.
    """

    ensemble: Ensemble
    adapter: Path | None
    files: dict[str, Path]


def load_official(
    variant: str | Variant,
    *,
    weights: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    pretrained: bool = True,
    offline: bool | None = None,
    progress: bool = True,
) -> OfficialCheckpoint:
    """Read a published variant, downloading what is missing.

    `weights` is a folder or a zip in the original's layout; the cache is used when it is None. DINO's and DINOv2's
    backbones, which are in no release, are looked for in `weights` (also in `checkpoints/` there, where the original
    puts them), in the cache and in torch.hub's folder, and else downloaded to the cache. `cache_dir` overrides the
    cache's place (`cache.cache_folder`). `pretrained=False` leaves the human-tuned adapter out. `offline=True` forbids
    downloads, False allows them, None asks the environment (`network.is_offline`). `progress` shows bars on stderr.

    Raises ValueError for an unknown variant, a 0.1.x release, an adapter or weights of something else, a damaged or
    hostile file (ArchiveError and ChecksumError are ValueErrors); FileNotFoundError if a file is missing, offline with
    the address of each and where to put it; OSError for the network (DownloadError) and the disk.
    """
    chosen = variant_named(variant) if isinstance(variant, str) else variant
    found = find_release(
        chosen, weights=weights, cache_dir=cache_dir, pretrained=pretrained, offline=offline, progress=progress
    )
    try:
        return _assembled(chosen, found)
    except ValueError:  # what we fetched and cannot read must not be found again by the next call
        found.discard()
        raise


def _assembled(chosen: Variant, found: ReleaseFiles) -> OfficialCheckpoint:
    files = dict(found.base)
    ensemble = skeleton(chosen.branches)
    if found.adapter is not None:  # before the long reading
        read_adapter(ensemble, found.adapter, f"'{chosen.name}'", f"use {chosen.adapter}/ of {chosen.url}")
        files["adapter"] = found.adapter
    tensors: dict[str, Tensor] = {}
    for j, branch in enumerate(chosen.branches):
        place = f"branches.{j}."
        read = _read_base(found.base[branch.name], BASE_FILES[branch.name])
        expected = {key[len(place) :]: t.shape for key, t in ensemble.state_dict().items() if key.startswith(place)}
        if problem := difference(expected, {key: tensor.shape for key, tensor in read.items()}):
            raise ValueError(
                f"{found.base[branch.name]} does not hold the weights of '{branch.name}' ({problem}); delete it and "
                "get the file of the release."
            )
        tensors.update({place + key: tensor for key, tensor in read.items()})
    return OfficialCheckpoint(fill(ensemble, tensors), found.adapter, files)


def _read_base(path: Path, base: BaseFile) -> dict[str, Tensor]:
    """A branch's `state_dict` in our names, in float32, in memory of its own."""
    content: Any = _load(path)
    if base.entry is not None:
        if not isinstance(content, dict) or base.entry not in content:
            raise ValueError(f"{path} has no entry '{base.entry}'; delete it and get the file of the release.")
        content = content[base.entry]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not named tensors; get the file of the release.")
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        if key == "mask_token":
            continue
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: its entry {key!r} is no tensor; delete it and get the file of the release.")
        # a copy: the file is mapped into memory and must not be needed any more
        tensors[_our_name(key.removeprefix(base.prefix))] = value.detach().to(torch.float32, copy=True).contiguous()
    return tensors


def _our_name(key: str) -> str:
    if key == "proj":
        return "projection"
    return "backbone." + re.sub(r"^pos_drop\.", "norm_pre.", key)


def _load(path: Path) -> Any:
    """The content of a PyTorch file, tensors and plain containers only."""
    error: Exception | None = None
    for mmap in (True, False):  # files written before PyTorch 1.6 cannot be mapped
        try:
            # training scripts like to store their command line beside the weights: a class without behaviour
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except FileNotFoundError:
            raise
        except Exception as caught:  # whatever a damaged or hostile file provokes
            error = caught
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise ValueError(
        f"{path} cannot be read as PyTorch weights: it is damaged, or holds more than tensors, which is not run here "
        f"({reason[:200]}). Delete it and get the file of the release."
    ) from error
