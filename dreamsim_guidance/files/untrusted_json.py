"""Parse JSON from untrusted sources, with limits on its size and nesting, and errors that name the source."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]

MAX_BYTES = 1 << 20
"""Cards and adapter settings have a few kilobytes."""


def parse_json(text: str | bytes, source: str) -> Any:
    """The value in `text`, which came from `source`. Raises ValueError for what is no JSON, too large or nested too deeply."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"{source} has {len(text)} bytes of JSON, at most {MAX_BYTES} are read.")
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON ({error}).") from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON has")
