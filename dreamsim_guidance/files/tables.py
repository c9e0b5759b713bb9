"""Tables for people: plain text for a terminal, Markdown for a file.

A cell is text, a path, a number or None (an empty cell). Columns of numbers are aligned to the right, others to the left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from tabulate import tabulate

from dreamsim_guidance.files.names import printable

__all__ = ["TableCell", "markdown_table", "text_table"]

TableCell = str | int | float | PurePath | None

_NUMBER = re.compile(r"\s*[-+−]?(\d[\d,]*(\.\d+)?(e[-+]?\d+)?|nan|inf)( ?[%\w]{1,3})?( \[[^]]*\])?$")
"""A number, with a unit of up to three letters and an interval in brackets if it has them."""
_MISSING = ("", "-", "–")


def text_table(columns: Sequence[TableCell], rows: Iterable[Sequence[TableCell]], digits: int = 4) -> str:
    """Lines of cells under the names of their columns, two spaces between columns.

    Spaces at the start of a cell are kept, as an indentation. Floats get `digits` digits after the point.
    """
    head, *body = _cells(columns, rows, digits)
    # the names are a row like the others: tabulate widens the columns of its headers
    table = tabulate([head, *body], tablefmt="plain", colalign=_alignment(head, body), **_VERBATIM)
    return "\n".join(line.rstrip() for line in table.splitlines())


def markdown_table(columns: Sequence[TableCell], rows: Iterable[Sequence[TableCell]], digits: int = 4) -> str:
    """The same table in Markdown, without a line break at its end."""
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in _cells(columns, rows, digits)]
    return tabulate(body, head, tablefmt="pipe", colalign=_alignment(head, body) if body else None, **_VERBATIM)


_VERBATIM: dict[str, Any] = {"disable_numparse": True, "preserve_whitespace": True}
"""tabulate prints a text as it is, even one that looks like a number, such as a method's name 1e3."""


def _cells(columns: Sequence[TableCell], rows: Iterable[Sequence[TableCell]], digits: int) -> list[list[str]]:
    lines = [[_text(cell, digits) for cell in line] for line in (columns, *rows)]
    for line in lines:
        if len(line) != len(columns):
            raise ValueError(f"a row needs {len(columns)} cells ({', '.join(lines[0])}), got {len(line)}: {line}.")
    return lines


def _text(cell: TableCell, digits: int) -> str:
    if cell is None:
        return ""
    return (
        f"{cell:.{digits}f}"
        if isinstance(cell, float)
        else printable(cell if isinstance(cell, PurePath) else str(cell))
    )


def _alignment(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    columns = [[line[i] for line in body if line[i] not in _MISSING] for i in range(len(head))]
    return ["right" if cells and all(map(_NUMBER.match, cells)) else "left" for cells in columns]
