"""Comma-separated files by column name, with errors that name the file and the line to look at.

A data set's folder may hold files of other people, and files that are no files: whatever is only looked at, to find out
what a folder holds, goes through `first_records`, which reads regular files alone and no more than their beginning.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

__all__ = ["first_records", "inside", "number", "read_header", "read_records", "read_table"]

_LONGEST = 1 << 20
"""Characters of a line, beyond which the file is no table."""
_BEGINNING = 64 << 10
"""Bytes of a file that are read to see what it is."""


def read_table(file: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row as its place, for messages, and its cells by column, stripped; "" for an optional column that is absent.

    Columns may be in any order, among others, and are compared without regard to case and spaces. Raises ValueError for a
    column of `needed` that is missing, a column that occurs twice, and as `read_records`.
    """
    names = list(dict.fromkeys([*needed, *optional]))
    records = read_records(file)
    _, header = next(records, (1, []))
    keys = [_key(name) for name in header]
    if missing := [name for name in needed if _key(name) not in keys]:
        columns = ", ".join(name.strip() for name in header) or "nothing"
        raise ValueError(f"'{file}' lacks the column {missing[0]}; it has {columns}. Needed: {', '.join(needed)}.")
    if repeated := [name for name in names if keys.count(_key(name)) > 1]:
        raise ValueError(
            f"'{file}' has the column {repeated[0]} {keys.count(_key(repeated[0]))} times; keep one of them."
        )
    place = {name: keys.index(_key(name)) for name in names if _key(name) in keys}
    for line, cells in records:
        where = f"'{file}', line {line}"
        if len(cells) != len(header) and (len(cells) < len(header) or any(map(str.strip, cells[len(header) :]))):
            raise ValueError(f"{where}: {len(cells)} cells, but the first line names {len(header)} columns.")
        row = {name: cells[place[name]].strip() if name in place else "" for name in names}
        if broken := [name for name, cell in row.items() if "\n" in cell or "\r" in cell]:
            raise ValueError(
                f'{where}: {broken[0]} goes on in the next line, {row[broken[0]][:40]!r}...; look for a stray quote (").'
            )
        yield where, row


def read_records(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line in which each record begins, from 1, and its cells; empty lines are left out.

    Raises ValueError for what is not UTF-8 text (with or without a byte-order mark), and for a quote that is not closed.
    """
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as opened:
        record: list[str] = []

        def lines() -> Iterator[str]:
            for line, text in enumerate(iter(lambda: opened.readline(_LONGEST), ""), 1):
                _check_text(file, line, text)
                record.append(text)
                yield text

        reader = csv.reader(lines(), skipinitialspace=True)
        while True:
            begin = reader.line_num + 1
            record.clear()
            try:
                cells = next(reader, None)
                if len(record) > 1 or '"' in "".join(record):
                    _check_quotes(record)
            except csv.Error as error:
                raise ValueError(
                    f"'{file}', line {begin}: not a row of comma-separated cells ({error}); look for a stray quote (\")."
                ) from error
            if cells is None:
                return
            if any(cells):
                yield begin, cells


def _check_text(file: Path, line: int, text: str) -> None:
    if line == 1 and text[:2] in ("\udcff\udcfe", "\udcfe\udcff"):
        raise ValueError(f"'{file}' is UTF-16 text; save it as UTF-8.")
    if "\0" in text:
        raise ValueError(f"'{file}', line {line}: a zero byte; this is not a table of comma-separated text.")
    if len(text) == _LONGEST:
        raise ValueError(
            f"'{file}', line {line}: over {_LONGEST:,} characters; this is not a table of comma-separated text."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"'{file}', line {line}: not UTF-8 text (byte {ord(text[error.start]) - 0xDC00:#04x}), so this is not a table "
            "of comma-separated text; save it as UTF-8."
        ) from error


def _check_quotes(lines: Sequence[str]) -> None:
    """Raise csv.Error if the last quoted cell of a record is not closed, or is closed in the middle of a word.

    A reader that is not strict takes such a quote for the beginning of a cell that may hold the rest of the file.
    """
    if len(lines) > 1 or lines[0].count('"') % 2:
        for _ in csv.reader(lines, skipinitialspace=True, strict=True):
            pass


def first_records(file: Path, count: int = 1) -> list[list[str]]:
    """The cells of up to `count` first lines, stripped, from a beginning of the file of bounded length.

    Nothing for what is not a regular file, cannot be read, or is not text: a folder, a device, a dangling link.
    """
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return []
        with file.open("rb") as opened:
            beginning = opened.read(_BEGINNING)
        text = beginning.decode("utf-8-sig", "strict" if len(beginning) < _BEGINNING else "ignore")
        if "\0" in text:
            return []
        reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
        return [[cell.strip() for cell in cells] for cells, _ in zip(reader, range(count), strict=False)]
    except (OSError, ValueError, csv.Error):
        return []


def read_header(file: Path) -> tuple[str, ...]:
    """The cells of the first line, lower case and without spaces; empty where `first_records` finds nothing."""
    return tuple(_key(cell) for cells in first_records(file) for cell in cells)


def number(where: str, column: str, word: str, low: float = float("-inf"), high: float = float("inf")) -> float:
    """The finite number between `low` and `high` that `word` writes; ValueError for anything else."""
    try:
        value = float(word)
    except ValueError as error:
        raise ValueError(f"{where}: {column} must be a number, got {word!r}.") from error
    if not (low <= value <= high and abs(value) < float("inf")):
        limits = f"finite and at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise ValueError(f"{where}: {column} must be {'finite' if low == float('-inf') else limits}, got {word}.")
    return value


def inside(where: str, name: str) -> str:
    """The relative path `name`; ValueError unless it stays inside the folder it is relative to."""
    if not name or ".." in name.replace("\\", "/").split("/") or name[0] in "/\\" or PureWindowsPath(name).drive:
        raise ValueError(f"{where}: the path {name!r} leaves the folder to which paths are relative.")
    return name


def _key(name: str) -> str:
    return "".join(name.split()).lower()
