"""A recipe run by a command: in its folder, with the way to go on after an interrupt, and its table of results."""

from __future__ import annotations

import errno
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamsim_guidance.experiment import registry

__all__ = ["execute", "print_table"]


def execute(recipe: registry.Recipe, folder: Path, replace: bool = False) -> tuple[int, dict[str, Any]]:
    """Run in the folder; an interrupt and a full disk are told with the way to go on."""
    from dreamsim_guidance.experiment import runner

    try:
        done = runner.run(recipe, folder, replace)
    except KeyboardInterrupt:
        if not (folder / "recipe.json").is_file():
            raise
        print(f"interrupted; go on with: dreamsim-guidance run {folder} --resume", file=sys.stderr)
        return 130, {}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and (folder / "recipe.json").is_file():
            print(
                f"the disk is full; make room, and go on with: dreamsim-guidance run {folder} --resume", file=sys.stderr
            )
        raise
    if done.before:
        print(f"'{folder}' was finished before; these are its results. Another folder runs it again.", file=sys.stderr)
    return 0, done.results


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Rows of numbers and words under the names of their columns."""
    columns = list(next(iter(rows.values())))
    cells = [["", *columns]]
    for name, row in rows.items():
        cells.append([name, *(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values())])
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns) + 1)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
