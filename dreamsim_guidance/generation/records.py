"""pictures.jsonl: one line for each generated picture, with everything that is needed to make it again.

A picture is written first, whole or not at all, and its line afterwards. So after a kill at any moment a picture may lack its
line, and the last line may be cut short; such pictures are made again, with the same result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import plain, write_text
from dreamsim_guidance.files.checksums import sha256

__all__ = ["Records"]

Record = Mapping[str, Any]


class Records:
    """The records of the pictures in a folder. Lines without their picture, or whose picture was changed, are dropped.

    folder: of pictures.jsonl. expected: the files of the plan; lines about others are dropped too.
    """

    def __init__(self, folder: Path, expected: Iterable[str]) -> None:
        self.file = folder / "pictures.jsonl"
        self.of_file: dict[str, Record] = {}
        wanted = set(expected)
        text = self.file.read_bytes().decode("utf-8", "replace") if self.file.is_file() else ""
        for line in text.split("\n"):
            record = _parsed(line)
            name = record.get("file")
            if name in wanted and _is_whole(folder / str(name), record.get("sha256")):
                self.of_file[str(name)] = record
        kept = "".join(map(_line, self.of_file.values()))
        if kept != text:
            write_text(self.file, kept)

    def __contains__(self, file: str) -> bool:
        return file in self.of_file

    def __len__(self) -> int:
        return len(self.of_file)

    def add(self, records: Iterable[Record]) -> None:
        """Append the records of pictures that have been written, and wait until they are on the disk."""
        entries = [plain(dict(record)) for record in records]
        with self.file.open("a", encoding="utf-8") as opened:
            opened.write("".join(map(_line, entries)))
            opened.flush()
            os.fsync(opened.fileno())
        self.of_file.update((entry["file"], entry) for entry in entries)


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _parsed(line: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_whole(file: Path, digest: Any) -> bool:
    return file.is_file() and sha256(file) == digest
