"""The command `demo`: what the library does, in two pictures and a few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamsim_guidance.cli.execution import execute, print_table, with_fields
from dreamsim_guidance.cli.guide import print_distances
from dreamsim_guidance.experiment import registry

__all__ = ["DemoCommand"]


@dataclass(frozen=True)
class DemoCommand:
    """Reconstruct a photograph from noise by the gradient of the metric; guide a small diffusion model to a scene.

    This runs the recipe reconstruct-photo, whose fields are options (--image, --metric, --steps, --size, ...), and then
    guide-pocket in its defaults; with --only guided the options are the fields of guide-pocket.
    """

    to: Path = Path("demo")
    """Folder of the pictures, the numbers and the record of the run; an earlier demo in it is replaced."""
    only: Literal["reconstruction", "guided"] | None = None
    """Run one of the two parts."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        if self.only != "guided":
            recipe = with_fields(registry.load("reconstruct-photo"), words)
            code, results = execute(recipe, self.to, replace=True)
            if code:
                return code
            print_table(results["distances"])
            print((self.to / "reconstruction.png").as_posix())
        if self.only != "reconstruction":
            folder = self.to if self.only else self.to / "guided"
            recipe = with_fields(registry.load("guide-pocket"), words if self.only else ())
            code, results = execute(recipe, folder, replace=True)
            if code:
                return code
            print_distances(results)
            print((folder / "sheet.png").as_posix())
        return 0
