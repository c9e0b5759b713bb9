"""The command `copy`: a recipe as a file of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dreamsim_guidance.experiment import registry

__all__ = ["CopyCommand"]


@dataclass(frozen=True)
class CopyCommand:
    """Write a recipe to a file of your own, to edit and run."""

    recipe: Positional[str]
    """A name, a .py file or a run folder."""
    to: Path | None = None
    """The file, or a folder for it; by default the recipe's name with .py, here. The file must not exist."""

    def __call__(self) -> int:
        recipe = registry.load(self.recipe)
        name = f"{recipe.name.replace('-', '_')}.py"
        to = Path(name) if self.to is None else self.to
        to = to / name if to.is_dir() else to
        if to.suffix != ".py":
            raise ValueError(f"'{to}' must end in .py to be found as a recipe file.")
        if to.exists():
            raise ValueError(f"'{to}' exists already; give another file with --to.")
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("x", encoding="utf-8") as file:
            file.write(recipe.source)
        print(f"{to.as_posix()}: edit it, then `dreamsim-guidance run {to.as_posix()}:{recipe.name}`")
        return 0
