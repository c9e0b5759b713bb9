"""The pages of the repository as text: their code blocks, inline code, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "LANGUAGES",
    "PAGES",
    "ROOT",
    "Block",
    "anchors",
    "blocks",
    "commands",
    "inline_code",
    "inline_commands",
    "links",
    "running_text",
]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md") if (ROOT / name).is_file()] + [
    *sorted((ROOT / "docs").rglob("*.md"))
]
"""Every page that may show code."""

LANGUAGES = {"python", "sh", "text", "bibtex", "{toctree}", "{eval-rst}"}
"""`python` and `sh` are run; `text` is output or a file."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, line, language and text, and why it is parsed only, if it is."""

    page: Path
    line: int
    language: str
    text: str
    parsed_only: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|:{3,})(?P<language>\S*)")
_PARSED_ONLY = re.compile(r"<!-- parsed only: (?P<reason>.*?) -->")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page in order."""
    result: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    reason: str | None = None
    i = 0
    while i < len(lines):
        comment = _PARSED_ONLY.fullmatch(lines[i].strip())
        fence = _FENCE.match(lines[i])
        if comment:
            reason = comment["reason"]
        elif fence:
            end = next(
                (k for k in range(i + 1, len(lines)) if lines[k].strip() == fence["fence"]),
                len(lines),
            )
            text = "\n".join(line.removeprefix(fence["indent"]) for line in lines[i + 1 : end])
            result.append(Block(page, i + 1, fence["language"], text, reason))
            reason, i = None, end
        elif lines[i].strip():
            reason = None
        i += 1
    return result


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, without comments; `a && b` is two."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in lexer:
            if word in ("&&", ";"):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


def running_text(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^ *(`{3,}).*?^ *\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> list[str]:
    """The code in backticks in running text and tables, each piece on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", running_text(page))]


def inline_commands(page: Path) -> list[str]:
    """Arguments of `dreamsim-guidance` in running text and tables, except commands that are abbreviated with dots."""
    commands = [code.partition(" ") for code in inline_code(page)]
    return [
        arguments for program, _, arguments in commands if program == "dreamsim-guidance" and "..." not in arguments
    ]


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures, without those of the web."""
    text = re.sub(r"`[^`]*`", "", running_text(page))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#{1,6} +(.*)$", running_text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
