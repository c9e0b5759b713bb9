"""Comma-separated files by column name, and the errors that tell a person which line to look at."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

__all__ = ["inside", "number", "read_header", "read_table"]


def read_table(file: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line as where it stands, for messages, and its cells by column, stripped; "" for what is not there.

    Columns may be in any order, among others, and are compared without regard to case and spaces. Raises ValueError
    for a column of `needed` that is missing, and for what is not text.
    """
    names = list(dict.fromkeys([*needed, *optional]))
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.reader(opened, skipinitialspace=True)
            header = next(reader, [])
            place = {_key(name): i for i, name in enumerate(header)}
            if missing := [name for name in needed if _key(name) not in place]:
                found = ", ".join(name.strip() for name in header) or "nothing"
                raise ValueError(
                    f"'{file}' lacks the column {missing[0]}; it has {found}. Needed: {', '.join(needed)}."
                )
            for cells in reader:
                if any(cells):
                    at = {name: place.get(_key(name), len(cells)) for name in names}
                    row = {name: cells[i].strip() if i < len(cells) else "" for name, i in at.items()}
                    yield f"'{file}', line {reader.line_num}", row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{file}' is not a table of comma-separated text ({error}).") from error


def read_header(file: Path) -> tuple[str, ...]:
    """The cells of the first line, lower case and without spaces; empty for what is not text."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            return tuple(_key(cell) for cell in next(csv.reader(opened), []))
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()


def number(where: str, column: str, word: str, low: float = float("-inf"), high: float = float("inf")) -> float:
    """A finite number between `low` and `high`, or ValueError."""
    try:
        value = float(word)
    except ValueError as error:
        raise ValueError(f"{where}: {column} must be a number, got {word!r}.") from error
    if not (low <= value <= high and abs(value) < float("inf")):
        limits = f"finite and at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"{where}: {column} must be {'finite' if low == float('-inf') else limits}, got {word}.")
    return value


def inside(where: str, name: str) -> str:
    """A path as it is written, or ValueError unless it stays below the folder it is relative to."""
    if not name or ".." in name.replace("\\", "/").split("/") or name[0] in "/\\" or PureWindowsPath(name).drive:
        raise ValueError(f"{where}: the path {name!r} leaves the folder of the csv file; paths are relative to it.")
    return name


def _key(name: str) -> str:
    return "".join(name.split()).lower()
