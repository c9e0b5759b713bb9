"""The command `run`: run a recipe in a new folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dreamsim_guidance.cli.execution import execute, with_fields
from dreamsim_guidance.experiment import registry

__all__ = ["RunCommand"]


@dataclass(frozen=True)
class RunCommand:
    """Run a recipe, with fields replaced: `run reconstruct-photo steps=100 --seed 1`.

    Each run has a folder: the resolved recipe, its source, versions, log, results, pictures. Giving such a folder as
    the recipe runs it again in a new one. `run NAME --help` lists the fields.
    """

    recipe: Positional[str]
    """A name, a .py file (or file.py:name), or the folder of an earlier run."""
    folder: Path | None = None
    """Folder of this run; by default runs/NAME-TIME. If the same recipe was interrupted in it, that run is resumed."""
    resume: bool = False
    """Resume the interrupted run in the folder that is given as the recipe."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        from dreamsim_guidance.experiment.runner import new_folder

        recipe = registry.load(self.recipe)
        if self.resume:
            if not (Path(self.recipe) / "recipe.json").is_file():
                raise ValueError(f"--resume needs the folder of an earlier run, got '{self.recipe}'.")
            if words or self.folder is not None:
                raise ValueError("--resume goes on with the same fields in the same folder; leave the others out.")
            folder = Path(self.recipe)
        else:
            recipe = with_fields(recipe, words)
            folder = new_folder(recipe.name) if self.folder is None else self.folder
        code, results = execute(recipe, folder)
        from dreamsim_guidance.processes import is_main

        if code == 0 and is_main():  # one of several processes prints
            print(json.dumps(results, indent=2))
            print(f"run folder: {folder.as_posix()}", file=sys.stderr)
        return code
