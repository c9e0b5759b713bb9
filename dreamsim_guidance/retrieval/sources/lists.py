"""Lists of picture files: a CSV file with a column of paths, or a text file with one path on each line.

Paths are relative to the folder of the list. A path that leaves this folder, also by a link, is listed as broken, unless
`outside` allows it. A path that occurs twice counts once.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from dreamsim_guidance.retrieval.sources.files import OUTSIDE, leaves, single_file
from dreamsim_guidance.retrieval.sources.piece import Picture, path_of

__all__ = ["listed_pictures"]

_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "picture")
"""Names of the column, the most likely first."""


def listed_pictures(file: Path, column: str | None = None, outside: bool = False) -> Iterator[Picture]:
    """Yield the pictures of a list, in its order.

    column: by default the first of path, file, filename, ..., or the only column, which needs no heading.
    outside: whether paths may lead out of the list's folder; by default they may not.

    Raises OSError if the list cannot be read, ValueError if it has no such column or is no CSV file.
    """
    folder = Path(os.path.abspath(file)).parent
    root = Path(os.path.realpath(folder))
    for name in dict.fromkeys(_paths(file, column)):
        if "\0" in name:
            yield Picture(path_of(folder / name), fault="a null byte in the path")
            continue
        path = Path(os.path.normpath(folder / name)) if ".." not in Path(name).parts else folder / name
        if not outside and leaves(path, root):
            yield Picture(path_of(path), fault=f"a path that leaves the folder of the list; {OUTSIDE}")
        else:
            yield single_file(path)


def _paths(file: Path, column: str | None) -> Iterator[str]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        try:
            if file.suffix.lower() == ".txt":
                yield from (line for line in stream.read().splitlines() if line.strip())
                return
            heading = next(rows, None)
            if heading is None:
                return
            place = _place(heading, column, file)
            if place is None:
                place = 0
                yield heading[0]
            for number, row in enumerate(rows, 2):
                if not row:
                    continue
                if len(row) <= place:
                    raise ValueError(f"line {number} of '{file}' has {len(row)} columns, too few for a path.")
                yield row[place]
        except csv.Error as error:
            raise ValueError(f"'{file}' is not a CSV file ({error}).") from error


def _place(heading: list[str], column: str | None, file: Path) -> int | None:
    """The position of the column of paths; None if the only column has no heading."""
    names = [name.strip() for name in heading]
    if column is not None:
        if column not in names:
            raise ValueError(f"'{file}' has no column '{column}'; it has {', '.join(names)}.")
        return names.index(column)
    lower = [name.lower() for name in names]
    chosen = next((name for name in _NAMES if name in lower), None)
    if chosen is not None:
        return lower.index(chosen)
    if len(names) == 1:
        return None
    raise ValueError(f"'{file}' has no column of paths among {', '.join(names)}; name it by --column.")
