"""The command `duplicates`: groups of near-duplicates."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_file, write_files
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.tables import text_table

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.duplicate_groups import PictureGroup

__all__ = ["DuplicatesCommand"]


@dataclass(frozen=True)
class DuplicatesCommand:
    """Find groups of near-duplicates, and propose which picture of each to keep. Nothing is ever deleted.

    By default every two pictures of a group are within the threshold, so that any of them may stand for the others.
    """

    source: Positional[tuple[str, ...]]
    """An index; or folders, files, patterns, shards, tables and lists of pictures."""
    threshold: float | None = None
    """Largest distance of near-duplicates; by default suggested from the distances to the nearest neighbours, which says so."""
    linkage: Literal["complete", "single"] = "complete"
    """complete: every two pictures of a group are within the threshold. single: chains of near-duplicates are one group."""
    keep: Literal["largest", "first"] = "largest"
    """Propose the picture with the most pixels (then bytes) of each group, or the first by name."""
    metric: str | None = None
    """Name of the metric; by default that of the index, and for pictures photographs, or pocket where its extra is missing."""
    exact_up_to: int | None = None
    """Compare all pairs up to this number of pictures (by default 50,000), and beyond it the neighbours that an approximate
    index finds, which may miss some."""
    json: bool = False
    """Print JSON instead of tables."""
    html: Path | None = None
    """Also write a self-contained page with thumbnails to this file."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        from dreamsim_guidance.cli.collections import report_broken
        from dreamsim_guidance.retrieval.collection import opened
        from dreamsim_guidance.retrieval.duplicate_groups import EXACT_UP_TO, duplicates_page, find_duplicates

        if self.html is not None:
            check_file(self.html, "--html")
        exact_up_to = EXACT_UP_TO if self.exact_up_to is None else self.exact_up_to
        with opened(self.source, self.metric, self.device) as index:
            report_broken(index)
            result = find_duplicates(
                index, self.threshold, self.linkage, self.keep, exact_up_to, lambda line: print(line, file=sys.stderr)
            )
        if self.json:
            print(jsonlib.dumps(result.described(), indent=2))
        else:
            print("\n".join([*_lines(result.groups), result.summary]))
        if self.html is not None:
            from dreamsim_guidance.files.atomic import write_text

            write_files({self.html: lambda file: write_text(file, duplicates_page(result))})
        return 0


def _lines(groups: tuple[PictureGroup, ...]) -> list[str]:
    if not groups:
        return []
    rows = [
        [
            number if picture is group.pictures[0] else "",
            "keep" if picture is group.pictures[0] else "copy" if picture.is_copy else "near",
            picture.distance,
            f"{picture.width} x {picture.height}",
            f"{picture.bytes:,}",
            printable(picture.path),
        ]
        for number, group in enumerate(groups, 1)
        for picture in group.pictures
    ]
    return [text_table(["group", "", "distance", "pixels", "bytes", "path"], rows)]
