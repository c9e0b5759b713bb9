"""What the commands on collections share: which pictures could not be read, and the order of the others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dreamsim_guidance.files.names import printable

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.index import Index

__all__ = ["report_broken", "sorted_rows"]

_NAMED = 20


def report_broken(index: Index) -> None:
    """Name the pictures that cannot be read on stderr; they take no part."""
    broken = index.broken
    for path, reason in list(broken.items())[:_NAMED]:
        print(f"left out: {printable(path)} ({printable(reason)})", file=sys.stderr)
    if len(broken) > _NAMED:
        print(f"left out: {len(broken) - _NAMED} more pictures that cannot be read", file=sys.stderr)


def sorted_rows(index: Index) -> list[int]:
    """The rows of the index in the natural order of their paths."""
    from dreamsim_guidance.retrieval.consistency import natural_order

    row_of = {path: row for row, path in enumerate(index.paths)}
    return [row_of[path] for path in natural_order(row_of)]
