"""Docstrings as they are written in this library, turned into reStructuredText.

They are plain text for readers of the source: paragraphs, `code` in single backticks, indented equations and code, and
one line `name: text` for each argument, continued on indented lines. Here

- a line `name: text` where `name` is an argument (or several, `a, b: text`) becomes a field `:param name: text`,
- an indented block after a blank line, and lines in columns, become a literal block,
- a line `- text`, continued on indented lines, is an item of a list,
- `*`, `|` and `_` outside backticks are escaped.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_ARGUMENTS = re.compile(r"^(?P<names>\*{0,2}[a-z_]\w*(?:, \*{0,2}[a-z_]\w*)*): +(?P<text>\S.*)$")
_COLUMNS = re.compile(r"^\S.*?\S {2,}\S")


def convert(lines: list[str], arguments: set[str]) -> list[str]:
    """The docstring's lines as reStructuredText; `arguments` are the names that may begin a line `name: text`."""
    result: list[str] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            result.append("")
            i += 1
        elif line[0].isspace() and (i == 0 or not lines[i - 1].strip()):
            block = _indented(lines, i)
            result += [
                "::",
                "",
                *(f"    {text}".rstrip() for text in textwrap.dedent("\n".join(block)).splitlines()),
                "",
            ]
            i += len(block)
        elif fields := _fields(line, arguments):
            block = _indented(lines, i + 1)
            text = " ".join([fields[1], *(text.strip() for text in block if text.strip())])
            if result and result[-1] and not result[-1].startswith(":param"):
                result.append("")
            result += [f":param {name}: {escape(text)}" for name in fields[0]]
            i += 1 + len(block)
            if i < len(lines) and lines[i].strip() and not _fields(lines[i], arguments):
                result.append("")
        elif line.startswith("- "):
            block = []
            while i + 1 + len(block) < len(lines) and lines[i + 1 + len(block)][:1].isspace():
                block.append(lines[i + 1 + len(block)].strip())
            text = " ".join([line[2:].strip(), *block]).rstrip()
            if result and result[-1] and not result[-1].startswith("- "):
                result.append("")
            result.append(f"- {escape(text)}")
            i += 1 + len(block)
            if i < len(lines) and lines[i].strip() and not lines[i].startswith("- "):
                result.append("")
        elif block := _table(lines, i):
            result += ["::", "", *(f"    {text}".rstrip() for text in block), ""]
            i += len(block)
        else:
            result.append(escape(line.strip()))
            i += 1
    return result


def escape(text: str) -> str:
    """Text whose `*`, `|` and trailing `_` mean themselves, outside backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"(\\|\*|\||_(?=\W|$))", r"\\\1", part) for part in parts)


def _fields(line: str, arguments: set[str]) -> tuple[list[str], str] | None:
    match = _ARGUMENTS.match(line)
    if match is None:
        return None
    names = [name.strip("*") for name in match["names"].split(", ")]
    return (names, match["text"]) if set(names) <= arguments else None


def _indented(lines: list[str], start: int) -> list[str]:
    """The indented lines from `start`, blank ones among them included."""
    end = start
    for i in range(start, len(lines)):
        if lines[i].strip():
            if not lines[i][0].isspace():
                break
            end = i + 1
    return lines[start:end]


def _table(lines: list[str], start: int) -> list[str]:
    """The paragraph that starts there, if its lines are in columns: two spaces or more within them."""
    if start and lines[start - 1].strip():
        return []
    end = next((i for i in range(start, len(lines)) if not lines[i].strip()), len(lines))
    paragraph = lines[start:end]
    columns = sum(bool(_COLUMNS.match(line)) for line in paragraph)
    return paragraph if columns == len(paragraph) and columns > 1 else []


def _arguments_of(what: str, documented: Any) -> set[str]:
    if what not in ("class", "exception", "function", "method"):
        return set()
    try:
        names = set(inspect.signature(documented).parameters)
    except (TypeError, ValueError):
        names = set()
    return names | set(getattr(documented, "__dataclass_fields__", ()))


def _process(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    lines[:] = convert(lines, _arguments_of(what, documented))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
