"""The words of a command line as the dataclass of a command, with mistakes as ValueError of one line."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from dreamsim_guidance.files.names import suggestion

__all__ = ["parse"]

_FRAME = re.compile(r"[\u2500-\u257f]|\x1b\[[\d;]*m")
"""What a terminal draws: the box around a message, and colours."""


def parse(kind: Any, words: Sequence[str], prog: str, description: str | None = None) -> tuple[Any, list[str]]:
    """Return the command that the words describe, an instance of `kind`, and the words that are none of its options.

    kind: a dataclass, or a union of dataclasses as subcommands.
    prog: how the command is called, for messages.
    description: the first line of its help.

    Raises ValueError for a missing or impossible value or subcommand, and SystemExit after help was printed.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            command, unknown = tyro.cli(
                kind,
                args=list(words),
                prog=prog,
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(one_line(message.getvalue(), words, prog)) from None
    sys.stderr.write(message.getvalue())  # warnings
    return command, unknown


def one_line(box: str, words: Sequence[str], prog: str) -> str:
    """What tyro says in a box, on one line, and which help to read."""
    lines = [" ".join(_FRAME.sub(" ", line).strip(" |+").split()) for line in box.splitlines()]
    lines = [line for line in lines if line.strip("-+")]
    end = next((i for i, line in enumerate(lines) if re.match(r"(For full|Argument) helptext", line)), len(lines))
    asked = re.search(r"For full helptext,\s+(?:run|see):?\s+(.*? --help)", " ".join(lines))
    title, text = (lines or [""])[0], " ".join(lines[1:end])
    if title == "Missing subcommand" and (names := re.search(r"\{(.*?)\}", text)):
        name = words[1] if len(words) > 1 else ""
        problem = (
            f"unknown command '{words[0]} {name}'{suggestion(name, names[1].split(', '))}"
            if name
            else "a command is needed"
        )
        text = f"{problem}; known: {names[1]}"
    else:
        text = f"{title}: {text}" if text else title
    return f"{text.rstrip('.')}; see `{asked[1] if asked else f'{prog} --help'}`."
