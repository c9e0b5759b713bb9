"""Run a recipe for a command: in its folder, with advice after an interrupt, and a table of its results."""

from __future__ import annotations

import dataclasses
import errno
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamsim_guidance.experiment import fields
from dreamsim_guidance.experiment.registry import Recipe
from dreamsim_guidance.files.tables import text_table

__all__ = ["execute", "print_table", "with_fields"]


def with_fields(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """The recipe with the fields replaced that the words of the command line name; raises as `fields.override`."""
    return dataclasses.replace(recipe, config=fields.override(recipe.config, words))


def execute(recipe: Recipe, folder: Path, replace: bool = False) -> tuple[int, dict[str, Any]]:
    """Run the recipe in the folder; return the command's exit code and the results.

    replace: whether an earlier run of the same recipe in the folder is replaced, not resumed.

    After an interrupt (exit code 130) and on a full disk (OSError) it prints how to resume.
    """
    from dreamsim_guidance.experiment import runner

    try:
        finished = runner.run(recipe, folder, replace)
    except KeyboardInterrupt:
        if not (folder / "recipe.json").is_file():
            raise
        print(f"interrupted; go on with: {_resume(folder)}", file=sys.stderr)
        return 130, {}
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and (folder / "recipe.json").is_file():
            print(f"the disk is full; make room, and go on with: {_resume(folder)}", file=sys.stderr)
        raise
    if finished.before:
        print(
            f"'{folder.as_posix()}' was finished before; these are its results. Another folder runs it again.",
            file=sys.stderr,
        )
    return 0, finished.results


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print rows by name, all with the same columns of numbers and texts."""
    columns = list(next(iter(rows.values())))
    print(text_table(["", *columns], [[name, *row.values()] for name, row in rows.items()]))


def _resume(folder: Path) -> str:
    return f"dreamsim-guidance run {folder.as_posix()} --resume"
