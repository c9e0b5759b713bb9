"""Find the files of a published variant: in a folder, in a zip, in the cache, or on the network.

A variant of the original consists of three kinds of files from two places:

    base weights     clip_vitb16_pretrain.pth.tar, ...                      in the release's zip
    adapter          ensemble_lora/adapter_{config.json,model.safetensors}  in the release's zip
    DINO, DINOv2     checkpoints/dino_vitbase16_pretrain.pth, ...           from their authors' server

The zip also holds `dino_vitb16_pretrain.pth`, with the backbone of DINO's *student*, and `dinov2_vitb14_pretrain.pth`.
The original checks that they exist, and still takes its backbones from the other server. Here they are never read: the
student's backbone has the right keys and shapes, but gives another metric.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.files import archive as zips
from dreamsim_guidance.files import checksums
from dreamsim_guidance.files.archive import ArchiveError
from dreamsim_guidance.files.cache import cache_folder, locked
from dreamsim_guidance.files.download import download
from dreamsim_guidance.files.network import is_offline
from dreamsim_guidance.metric.variants import Variant

__all__ = ["BASE_FILES", "BaseFile", "ReleaseFiles", "find_release"]


@dataclass(frozen=True)
class BaseFile:
    """The file of a branch's base weights.

    name: of the file. entry: of the dictionary in it, None for the dictionary itself. prefix: of the keys.
    url: where the file comes from, to be kept in `checkpoints/`; None for a member of the release's zip.
    """

    name: str
    entry: str | None = None
    prefix: str = ""
    url: str | None = None


_META = "https://dl.fbaipublicfiles.com"

BASE_FILES: Mapping[str, BaseFile] = {
    "dino_vitb16": BaseFile(
        "dino_vitbase16_pretrain.pth", url=f"{_META}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    ),
    "dinov2_vitb14": BaseFile(
        "dinov2_vitb14_pretrain.pth", url=f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth"
    ),
    **{
        name: BaseFile(f"{name}_pretrain.pth.tar", entry="state_dict")
        for name in ("clip_vitb16", "clip_vitb32", "open_clip_vitb16", "open_clip_vitb32")
    },
    "synclr_vitb16": BaseFile("synclr_vit_b_16.pth", entry="model", prefix="module.visual."),
}
"""The file of each branch, by the branch's name."""


@dataclass(frozen=True)
class ReleaseFiles:
    """The files of a variant: base weights by the branch's name, and the adapter's folder (None if it was not asked for)."""

    base: Mapping[str, Path]
    adapter: Path | None
    fetched: tuple[Path, ...] = ()
    """Files and folders that this library wrote into its cache."""

    def discard(self) -> None:
        """Remove what was fetched from the cache, with its checksums, because its content cannot be used."""
        for path in self.fetched:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            checksums.forget(path)
            path.unlink(missing_ok=True)


def find_release(
    variant: Variant,
    *,
    weights: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    pretrained: bool = True,
    offline: bool | None = None,
    progress: bool = True,
) -> ReleaseFiles:
    """The files of `variant`, downloaded if need be; `load_official` documents the arguments and errors."""
    cache, offline = cache_folder(cache_dir), is_offline(offline)
    if unknown := [branch.name for branch in variant.branches if branch.name not in BASE_FILES]:
        raise ValueError(
            f"no release has base weights for {', '.join(unknown)}; known: {', '.join(sorted(BASE_FILES))}."
        )
    bases = {branch.name: BASE_FILES[branch.name] for branch in variant.branches}
    wanted = [base.name for base in bases.values() if base.url is None]
    if pretrained:  # the adapter's config comes last: see archive.extract
        wanted += [f"{variant.adapter}/adapter_model.safetensors", f"{variant.adapter}/adapter_config.json"]

    absent: list[tuple[str, Path]] = []
    zip_file = cache / Path(variant.url).name
    if weights is None:
        folder, places = cache, [cache]
        if wanted and not zip_file.is_file() and _missing(cache, wanted):
            if cache.is_dir():
                _refuse_old_release((f"{path.name}/" for path in cache.iterdir()), cache, variant)
            if offline:
                absent.append((variant.url, zip_file))
    else:
        folder, places = _users_folder(Path(weights).expanduser(), cache, variant, wanted)

    files: dict[str, Path] = {}
    for name, base in bases.items():
        if base.url is not None:
            existing = _hub_file(base.name, [*places, cache])
            target = cache / "checkpoints" / base.name
            if existing is None and offline:
                absent.append((base.url, target))
            else:
                files[name] = existing or download(base.url, target, progress=progress)
                checksums.verify(files[name])
    if absent:
        raise FileNotFoundError(_how_to_get(variant, absent))
    if weights is None and wanted:
        _complete(variant, cache, wanted, progress)
    files |= {name: folder / base.name for name, base in bases.items() if base.url is None}
    # a file whose record has an address was downloaded by this library; others in the cache belong to the user
    fetched = [path for path in (*files.values(), *(cache / name for name in wanted)) if checksums.origin(path)]
    if folder.parent == cache / "archives":
        fetched.append(folder)
    elif checksums.recorded(zip_file):
        fetched.append(zip_file)
    return ReleaseFiles(files, folder / variant.adapter if pretrained else None, tuple(fetched))


def _users_folder(weights: Path, cache: Path, variant: Variant, wanted: list[str]) -> tuple[Path, list[Path]]:
    """The folder with the members of the user's folder or zip, and the places where DINO's file may be."""
    if weights.is_file():
        folder = _unpack(weights, cache, wanted, variant)
        return folder, [folder, weights.parent]
    if not weights.is_dir():
        raise FileNotFoundError(
            f"weights: there is no folder or zip '{weights}'; give the place of an official release, or leave weights "
            f"out to download {variant.url}."
        )
    if missing := _missing(weights, wanted):
        _refuse_old_release((f"{path.name}/" for path in weights.iterdir()), weights, variant)
        adapters = sorted(path.name for path in weights.glob("*_lora"))
        has = f" (it has {', '.join(adapters)})" if adapters else ""
        raise FileNotFoundError(
            f"weights: '{weights}' lacks {', '.join(missing)} of '{variant.name}'{has}; give the folder in which the "
            f"release was unpacked, or leave weights out to download {variant.url}."
        )
    return weights, [weights]


def _complete(variant: Variant, cache: Path, wanted: list[str], progress: bool) -> None:
    """Make sure that the cache holds the members of the release's zip, all from one zip and unchanged since."""
    if _missing(cache, wanted):  # a complete cache may be read-only: no lock
        with locked(cache / variant.adapter):
            if not _missing(cache, wanted):  # another process was faster
                return
            zip_file = download(variant.url, cache / Path(variant.url).name, progress=progress)
            entry = checksums.recorded(zip_file)
            try:
                _refuse_old_release(zips.members(zip_file), zip_file, variant)
                extracted = zips.extract(zip_file, cache, wanted)
            except ArchiveError as error:
                if entry is None:  # the user put the zip there
                    raise
                zip_file.unlink()
                checksums.forget(zip_file)
                raise ArchiveError(f"what {variant.url} sent was removed from the cache: {error}") from error
            for path in extracted.values():
                checksums.record(path, variant.url)
            if entry is not None:
                zip_file.unlink()  # its record stays, for another download of the same zip
    for name in wanted:
        checksums.verify(cache / name)
        if checksums.recorded(cache / name) is None:  # written by the original package, or put there by hand
            with contextlib.suppress(OSError):  # a read-only cache
                checksums.record(cache / name, "")


def _unpack(archive: Path, cache: Path, wanted: list[str], variant: Variant) -> Path:
    """A zip of the user, unpacked once into the cache, into a folder whose name changes with the file."""
    status = archive.stat()
    identity = f"{archive.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    folder = cache / "archives" / f"{archive.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if folder.is_dir() and not _missing(folder, wanted):
        return folder
    with locked(folder):
        members = zips.members(archive)
        _refuse_old_release(members, archive, variant)
        hub = {place for base in BASE_FILES.values() if base.url for place in _hub_places(base.name)}
        zips.extract(archive, folder, [*sorted(hub & members.keys()), *wanted])
    return folder


def _hub_file(name: str, places: Iterable[Path]) -> Path | None:
    """DINO's or DINOv2's file, where this library, the original, torch.hub or a person would put it; None if it is nowhere."""
    import torch

    candidates = [place / relative for place in places for relative in _hub_places(name)]
    candidates.append(Path(torch.hub.get_dir()) / "checkpoints" / name)  # reads, but does not set, torch.hub's folder
    return next((path for path in candidates if path.is_file()), None)


def _hub_places(name: str) -> list[str]:
    # without the folder, DINOv2's file would have the name of the zip's member that is never read
    return [f"checkpoints/{name}", *([] if name.startswith("dinov2_") else [name])]


def _missing(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (folder / name).is_file()]


def _refuse_old_release(names: Iterable[str], where: Path, variant: Variant) -> None:
    """Raise ValueError for a release before 0.2, which has one adapter for each branch: `dino_vitb16_lora/` and so on."""
    tops = {name.split("/")[0] for name in names if "/" in name}
    old = sorted(top for top in tops if re.fullmatch(r"(dino|clip|open_clip|mae)_vit[a-z]\d+_lora", top))
    if old and variant.adapter not in tops:
        raise ValueError(
            f"'{where}' is a release of dreamsim 0.1.x (it has {', '.join(old)}). Its weights are others, its "
            "embeddings were normalised before they were centred (since 0.2: after), and its adapters are in the "
            "format of peft 0.1.0, so this library cannot give its distances. Use "
            f"{variant.url}, or for the old numbers `pip install dreamsim==0.1.3`."
        )


def _how_to_get(variant: Variant, absent: list[tuple[str, Path]]) -> str:
    steps = "".join(f"\n  {url}\n    -> {path}" for url, path in absent)
    return (
        f"the weights of '{variant.name}' are not on this machine and downloading is off (offline=True, or "
        f"DREAMSIM_GUIDANCE_OFFLINE or HF_HUB_OFFLINE is set). Download on another machine and put there:{steps}\n"
        "or give a folder or zip that has them: weights=..."
    )
