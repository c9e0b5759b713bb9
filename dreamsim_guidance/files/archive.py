"""Extract files from a zip of unknown origin.

The author of an archive chooses its names and sizes freely. Before anything is written, every entry is inspected: a path
that leads out of the folder, a link, a repeated name, an encrypted entry or an implausible size makes the whole archive
refused. Then only the requested members are written to a temporary folder beside their destination, each checked against
its CRC-32 while it is read, and moved there once all of them are complete.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["ArchiveError", "extract", "members"]

log = logging.getLogger(__name__)

MAX_BYTES = 16 << 30
"""Far more than any release: the largest one has about 1 GB."""

_MAX_RATIO, _RATIO_FROM = 100, 64 << 20
"""Weights shrink by a tenth; a large file that shrinks a hundredfold is a decompression bomb."""

_LITTER = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")


class ArchiveError(ValueError):
    """A zip is damaged or unsafe, or lacks a member; nothing was written."""


def members(archive: str | os.PathLike[str], bounded: bool = True) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip by their path, with `/`; a single folder around all of them is taken off.

    bounded: refuse archives whose files take more than `MAX_BYTES`; False for sets of pictures, which may be larger.

    Directories and the hidden files of operating systems are left out. Raises FileNotFoundError, or ArchiveError for anything
    but a complete and harmless zip.
    """
    with _opened(Path(archive)) as opened:
        return _members(opened, Path(archive), bounded)


def extract(
    archive: str | os.PathLike[str], folder: str | os.PathLike[str], names: Iterable[str], bounded: bool = True
) -> dict[str, Path]:
    """Write the members `names` (paths as in `members`) to `folder`, replacing files of the same name; return their paths.

    After an error nothing is written. Each file is replaced in one step, the last of `names` last: if the process is killed
    in between, that one is missing. Raises ArchiveError, FileNotFoundError, or OSError when the disk is full.
    """
    archive, folder, wanted = Path(archive), Path(folder), list(names)
    with _opened(archive) as opened:
        entries = _members(opened, archive, bounded)
        if missing := [name for name in wanted if name not in entries]:
            raise ArchiveError(
                f"{archive} has no {', '.join(missing)}; it has {', '.join(sorted(entries)[:12]) or 'no files'}."
            )
        ignored = sorted(entries.keys() - set(wanted))
        if ignored:
            log.info("%s: not extracted: %s", archive, ", ".join(ignored[:20]))
        _check_space(archive, folder, sum(entries[name].file_size for name in wanted))
        is_new = not folder.exists()
        temporary = folder / f".{archive.name}.extracting"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
        try:
            for name in wanted:
                _write(opened, entries[name], temporary / name)
            for name in wanted:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, folder / name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if is_new:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # does nothing unless it is empty
    return {name: folder / name for name in wanted}


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    """The opened zip; whatever goes wrong while it is read raises ArchiveError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, RuntimeError) as error:
        raise ArchiveError(
            f"{archive} is not a whole zip file ({error}); delete it and download it again. Nothing was extracted."
        ) from error


def _members(opened: zipfile.ZipFile, archive: Path, bounded: bool) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    total = 0
    for info in opened.infolist():
        if reason := _danger(info):
            raise _refusal(archive, info, reason)
        total += info.file_size
        if bounded and total > MAX_BYTES:
            raise _refusal(archive, info, f"the files would take more than {MAX_BYTES >> 30} GiB")
        parts = [part for part in info.filename.split("/") if part not in ("", ".")]
        if info.is_dir() or not parts or any(part in _LITTER for part in parts):
            continue
        name = "/".join(parts)
        if name.casefold() in seen:
            raise _refusal(archive, info, "the name occurs twice")
        seen.add(name.casefold())
        entries[name] = info
    tops = {name.split("/")[0] for name in entries}
    # one folder around everything; but an adapter's own folder is kept
    if len(tops) == 1 and all("/" in name for name in entries) and not next(iter(tops)).endswith("_lora"):
        entries = {name.split("/", 1)[1]: info for name, info in entries.items()}
    return entries


def _danger(info: zipfile.ZipInfo) -> str | None:
    """Why an entry must not be extracted; None if it may be."""
    # zipfile cuts a name at a NUL and turns the system's separator into "/": inspect the name as it is stored
    stored = info.orig_filename
    if "\0" in stored or any(ord(letter) < 32 for letter in stored):
        return "its name has control characters"
    if stored.startswith(("/", "\\")) or "\\" in stored or re.match(r"[A-Za-z]:", stored):
        return "its path is absolute or written with backslashes"
    if ".." in stored.split("/"):
        return "its path leads out of the folder"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link or a device, not a file"
    if info.flag_bits & 0x1:
        return "it is encrypted"
    if info.file_size > _RATIO_FROM and info.file_size > _MAX_RATIO * max(info.compress_size, 1):
        return f"{info.compress_size} bytes would become {info.file_size}"
    return None


def _refusal(archive: Path, info: zipfile.ZipInfo, reason: str) -> ArchiveError:
    return ArchiveError(
        f"{archive} is refused because of its entry {info.orig_filename!r}: {reason}. Nothing was extracted; get the "
        "file from its publisher."
    )


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(info) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)  # raises BadZipFile at the end if the CRC differs
        target.flush()
        os.fsync(target.fileno())
    if path.stat().st_size != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} has {path.stat().st_size} bytes instead of {info.file_size}")


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: {archive.name} needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
            "make room, or choose another folder with cache_dir or DREAMSIM_GUIDANCE_CACHE",
            str(folder),
        )
