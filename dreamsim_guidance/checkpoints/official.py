"""Read the published weights of DreamSim into this library's modules.

The base weights follow DINO's naming scheme, which timm's Vision Transformer shares, with these differences:

    CLIP, OpenCLIP   under "state_dict"; `pos_drop` is CLIP's ln_pre (timm: `norm_pre`), `proj` the output projection
    SynCLR           under "model", with "module.visual." before every name
    DINOv2           `mask_token`, which only its training needs

The files are pickles; they are opened with PyTorch's restricted unpickler, which creates tensors and plain containers only.
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
    """A published variant, whose adapter is still to be attached.

    ensemble: base weights in float32 on the CPU.
    adapter: folder for `adapters.load_adapter(ensemble, adapter)`, which fits the ensemble; None for `pretrained=False`.
    files: what was read, by the branch's name and "adapter".
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

    weights: folder or zip in the original's layout; None for the cache. DINO's and DINOv2's backbones, which are in no
        release, are searched for in `weights` (also in its `checkpoints/`, where the original puts them), in the cache and in
        torch.hub's folder; if they are in none of them, they are downloaded to the cache.
    cache_dir: place of the cache; see `cache.cache_folder` for the default.
    pretrained: False leaves the adapter out, which was tuned on human judgments.
    offline: True forbids downloads, False allows them, None follows the environment (`network.is_offline`).
    progress: show bars on stderr.

    Raises ValueError for an unknown variant, a 0.1.x release, an adapter or weights of another model, a damaged or hostile file
    (ArchiveError and ChecksumError are ValueErrors); FileNotFoundError if a file is missing, offline with the address of each
    file and the place to put it; OSError for the network (DownloadError) and the disk.
    """
    chosen = variant_named(variant) if isinstance(variant, str) else variant
    files = find_release(
        chosen, weights=weights, cache_dir=cache_dir, pretrained=pretrained, offline=offline, progress=progress
    )
    try:
        return _assembled(chosen, files)
    except ValueError:  # a file that was fetched and cannot be read must not be used by the next call
        files.discard()
        raise


def _assembled(chosen: Variant, release: ReleaseFiles) -> OfficialCheckpoint:
    files = dict(release.base)
    ensemble = skeleton(chosen.branches)
    if release.adapter is not None:  # before the long reading
        read_adapter(ensemble, release.adapter, f"'{chosen.name}'", f"use {chosen.adapter}/ of {chosen.url}")
        files["adapter"] = release.adapter
    tensors: dict[str, Tensor] = {}
    for j, branch in enumerate(chosen.branches):
        prefix = f"branches.{j}."
        stored = _read_base(release.base[branch.name], BASE_FILES[branch.name])
        expected = {key[len(prefix) :]: t.shape for key, t in ensemble.state_dict().items() if key.startswith(prefix)}
        if problem := difference(expected, {key: tensor.shape for key, tensor in stored.items()}):
            raise ValueError(
                f"{release.base[branch.name]} does not hold the weights of '{branch.name}' ({problem}); delete it and "
                "get the file of the release."
            )
        tensors.update({prefix + key: tensor for key, tensor in stored.items()})
    return OfficialCheckpoint(fill(ensemble, tensors), release.adapter, files)


def _read_base(path: Path, base: BaseFile) -> dict[str, Tensor]:
    """A branch's `state_dict` under this library's names, in float32, independent of the file."""
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
        # a copy: the file is mapped into memory, and may be changed or removed later
        tensors[_our_name(key.removeprefix(base.prefix))] = value.detach().to(torch.float32, copy=True).contiguous()
    return tensors


def _our_name(key: str) -> str:
    if key == "proj":
        return "projection"
    return "backbone." + re.sub(r"^pos_drop\.", "norm_pre.", key)


def _load(path: Path) -> Any:
    """The content of a PyTorch file: tensors and plain containers only."""
    error: Exception | None = None
    for mmap in (True, False):  # files written before PyTorch 1.6 cannot be mapped
        try:
            # training scripts often store their command line beside the weights: a class without behaviour
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except FileNotFoundError:
            raise
        except Exception as caught:  # a damaged or hostile file may provoke any error
            error = caught
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise ValueError(
        f"{path} cannot be read as PyTorch weights: it is damaged, or holds more than tensors, which is not run here "
        f"({reason[:200]}). Delete it and get the file of the release."
    ) from error
