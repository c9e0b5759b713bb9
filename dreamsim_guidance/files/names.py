"""Names as text: of files, so that every output can hold them, and near ones that a mistyped name may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import PurePath

__all__ = ["decoded", "encoded", "printable", "suggestion"]

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENCODED = re.compile(r"%(?=[0-9A-Fa-f]{2})|[\x00-\x1f\x7f\ud800-\udfff]")
_CODE = re.compile(r"%([0-9A-Fa-f]{2})")
_BYTE = 0xDC00
"""Python reads a byte of a file name that is not UTF-8 as the character `_BYTE` + byte (PEP 383)."""


def printable(name: str | PurePath) -> str:
    r"""`name` for people to read, in a table, a page or a message: a path with `/` between folders, on Windows too.

    Bytes that are not UTF-8 become `\xff`, line breaks and other control characters `\n`, `\x1b`, `\u2028`. The result
    can be encoded as UTF-8, and text without such characters is returned unchanged.
    """
    return _UNPRINTABLE.sub(_escape, name.as_posix() if isinstance(name, PurePath) else name)


def encoded(name: str) -> str:
    """`name` for a file that is written and listed in a table: valid Unicode on one line; different names stay different.

    Bytes that are not UTF-8 and control characters become %FF, %0A, and a % that begins such a code becomes %25. Other names
    are returned unchanged.
    """
    return _ENCODED.sub(lambda match: f"%{ord(match[0]) % 0x100:02X}", name)


def decoded(name: str) -> str:
    """The name of a file of which `encoded` made `name`."""
    return _CODE.sub(lambda match: _character(int(match[1], 16)), name)


def _character(byte: int) -> str:
    return chr(byte if byte < 0x80 else _BYTE + byte)


def suggestion(text: str, names: Iterable[str]) -> str:
    """The text ` (did you mean 'x'?)` with the nearest of the known names, or "" if none is near."""
    close = difflib.get_close_matches(text.replace("_", "-"), list(names), 1) or difflib.get_close_matches(
        text, list(names), 1
    )
    return f" (did you mean '{close[0]}'?)" if close else ""


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - _BYTE:02x}" if _BYTE + 0x80 <= code <= _BYTE + 0xFF else repr(match[0])[1:-1]
