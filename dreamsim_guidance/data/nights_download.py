"""Download NIGHTS from its authors' server, in the chunks that they offer; each is unpacked and removed before the next.

    filtered      200 zips of about 0.3 GB, ref/000 ... ref/099 and distort/000 ... distort/099
    unfiltered    8 zips of about 36 GB, each a quarter of ref or distort, and nights_raw.csv
    jnd           jnd_votes.csv

The chunks of the filtered set do not contain its table of votes; `data.csv` is read out of nights.zip, which holds the whole
set, without downloading all of that file. Finished chunks are recorded in `.<set>.json`, so that an interrupted download
resumes with the missing bytes. While chunks are missing, the table lists the triplets whose pictures are complete, and the
whole table lies beside it as `data_all.csv`.

Addresses and sizes: the scripts and the README of https://github.com/ssundaram21/dreamsim.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dreamsim_guidance.files import archive, checksums
from dreamsim_guidance.files.atomic import write_json, writing
from dreamsim_guidance.files.cache import locked
from dreamsim_guidance.files.download import DownloadError, download
from dreamsim_guidance.files.remote_zip import read_member

__all__ = ["PARTS", "SERVER", "Chunk", "NightsSet", "chunks", "download_nights"]

SERVER = "https://data.csail.mit.edu/nights"

NightsSet = Literal["filtered", "unfiltered", "jnd"]

PARTS = 100
"""Number of folders of the filtered and of the unfiltered set, 000 to 099."""

_UNPACKED = {"filtered": 58 << 30, "unfiltered": 289 << 30}
"""Bytes of all chunks, as the README of the original states; for the check of free disk space."""


@dataclass(frozen=True)
class Chunk:
    """One zip on the server, the folder of the set that it fills, and roughly how many bytes that takes."""

    name: str
    address: str
    folder: str
    size: int


def chunks(which: NightsSet, parts: Collection[int] | None = None) -> list[Chunk]:
    """Return the chunks that hold `parts`, numbers from 0 to 99 (None: all). Raises ValueError for other numbers."""
    numbers = set(range(PARTS)) if parts is None else set(parts)
    if not numbers or not numbers <= set(range(PARTS)):
        raise ValueError(f"parts are numbers from 0 to {PARTS - 1}, at least one, got {sorted(numbers)}.")
    if which == "jnd":
        return []
    step = 1 if which == "filtered" else 25
    size = _UNPACKED[which] * step // PARTS // 3
    chosen = []
    for start in range(0, PARTS, step):
        if numbers & set(range(start, start + step)):
            for folder, pictures in (("ref", 1), ("distort", 2)):
                name = f"{folder}/{start:03d}" if which == "filtered" else f"{folder}_{start}_{start + step - 1}"
                where = "nights_chunked" if which == "filtered" else "nights_unfiltered"
                chosen.append(Chunk(name, f"{where}/{name}.zip", folder, pictures * size))
    return chosen


def download_nights(
    to: Path | str,
    which: NightsSet = "filtered",
    parts: Collection[int] | None = None,
    base_url: str = SERVER,
    progress: bool = True,
) -> Path:
    """Download a set, or the chunks that hold `parts` of it, into the folder `to`, and return its table of votes.

    which: "filtered" (the default), "unfiltered" or "jnd".
    parts: numbers from 0 to 99; None, the default, downloads all.
    base_url: of the server.
    progress: whether to show bars on stderr.

    Complete chunks are not downloaded again; after an error, the next call resumes. Raises DownloadError (an OSError) for a
    network failure, OSError for a full disk, which is checked first, and ArchiveError and ChecksumError (ValueErrors) for a
    damaged or unsafe zip.
    """
    if which not in get_args(NightsSet):
        raise ValueError(f"unknown set '{which}'; known: {', '.join(get_args(NightsSet))}.")
    selected = chunks(which, parts)
    to, base_url = Path(to), base_url.rstrip("/")
    to.mkdir(parents=True, exist_ok=True)
    with locked(to / f".{which}"):
        if which == "jnd":
            return _table(to / "jnd_votes.csv", f"{base_url}/jnd_votes.csv", progress)
        record = _Record(to, which)
        missing = [chunk for chunk in selected if not record.has(chunk)]
        _check_space(to, missing)
        table = to / ("data.csv" if which == "filtered" else "nights_raw.csv")
        whole = table.with_stem(f"{table.stem}_all")
        if table.is_file() and not whole.is_file():  # complete, or put there by the user
            os.replace(table, whole)
        if which == "filtered":
            _read_table(whole, f"{base_url}/nights.zip", table)
        else:
            _table(whole, f"{base_url}/nights_unfiltered/{table.name}", progress)
        try:
            for chunk in missing:
                _fetch(chunk, to, base_url, record, progress)
        finally:
            _cut(whole, table)
        shutil.rmtree(to / ".download", ignore_errors=True)
    return table


class _Record:
    """The finished chunks, with the number of files in each folder that they filled."""

    def __init__(self, to: Path, which: str) -> None:
        self.to, self.file = to, to / f".{which}.json"
        try:
            content: Any = json.loads(self.file.read_text())
        except (OSError, ValueError):
            content = {}
        self.finished: dict[str, dict[str, int]] = content if isinstance(content, dict) else {}

    def has(self, chunk: Chunk) -> bool:
        """Whether the chunk is finished and its files are still in place."""
        folders = self.finished.get(chunk.name, {})
        return bool(folders) and all(_count(self.to / folder) >= count for folder, count in folders.items())

    def add(self, chunk: Chunk, files: Collection[Path]) -> None:
        folders = [path.parent.relative_to(self.to).as_posix() for path in files]
        self.finished[chunk.name] = {folder: folders.count(folder) for folder in sorted(set(folders))}
        write_json(self.file, self.finished)


def _count(folder: Path) -> int:
    return sum(entry.is_file() for entry in os.scandir(folder)) if folder.is_dir() else 0


def _fetch(chunk: Chunk, to: Path, base_url: str, record: _Record, progress: bool) -> None:
    packed = to / ".download" / f"{chunk.name.replace('/', '-')}.zip"
    packed.parent.mkdir(exist_ok=True)
    download(f"{base_url}/{chunk.address}", packed, progress=progress)
    try:
        members = archive.members(packed, bounded=False)
        name, info = next(iter(members.items()))
        # `members` strips a single enclosing folder; the original's script unpacks it with the rest
        around = info.filename.removesuffix(name)
        files = archive.extract(packed, to / chunk.folder / around, members, bounded=False)
    except (archive.ArchiveError, StopIteration) as error:
        packed.unlink()  # so that the next call downloads it again
        checksums.forget(packed)
        raise archive.ArchiveError(f"{base_url}/{chunk.address}: {error or 'the zip is empty.'}") from error
    record.add(chunk, files.values())
    packed.unlink()
    checksums.forget(packed)


def _table(file: Path, url: str, progress: bool) -> Path:
    download(url, file, progress=progress)
    checksums.forget(file)  # users may rename its columns
    return file


def _read_table(file: Path, url: str, name: Path) -> None:
    if file.is_file():
        return
    try:
        content = read_member(url, lambda member: member.split("/")[-1] == "data.csv")
    except (DownloadError, ValueError) as error:
        raise DownloadError(
            f"the table of votes could not be read: {error} It is data.csv inside of {url}; put it at {name} by other "
            "means and call again, the pictures are fetched then."
        ) from error
    with writing(file) as temporary:
        temporary.write_bytes(content)


def _cut(whole: Path, table: Path) -> None:
    """Write the rows whose pictures are complete; if that is all of them, move the whole table into place."""
    with whole.open(newline="", encoding="utf-8-sig") as opened:
        header, *rows = list(csv.reader(opened)) or [[]]
    names = ("ref_path", "left_path", "right_path")
    places = [header.index(name) for name in names if name in header]
    downloaded_rows = [row for row in rows if all(i < len(row) and (table.parent / row[i]).is_file() for i in places)]
    if len(places) < len(names) or len(downloaded_rows) == len(rows):  # unknown columns: the rows cannot be selected
        os.replace(whole, table)
        return
    with writing(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, lineterminator="\n").writerows([header, *downloaded_rows])


def _check_space(to: Path, missing: Collection[Chunk]) -> None:
    # beside the files, the largest zip
    needed = sum(chunk.size for chunk in missing) + max((chunk.size for chunk in missing), default=0)
    free = shutil.disk_usage(to).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the disk is full: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; make room, choose "
            "another folder, or fetch fewer parts at a time",
            str(to),
        )
