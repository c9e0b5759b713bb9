"""The command `demo`: what the library does, in three pictures and a few minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreamsim_guidance.cli.execution import execute, print_table, with_fields
from dreamsim_guidance.cli.guide import print_distances
from dreamsim_guidance.experiment import registry

__all__ = ["PARTS", "DemoCommand"]

PARTS = {
    "reconstruction": ("reconstruct-photo", "reconstruction.png"),
    "guided": ("guide-pocket", "sheet.png"),
    "inversion": ("invert-pocket", "sheet.png"),
}
"""The parts of the demo: the recipe of each and the picture that it draws."""


@dataclass(frozen=True)
class DemoCommand:
    """Reconstruct a photograph from noise by the gradient of the metric; guide a small diffusion model to a scene; find the
    noise from which such a model draws a scene.

    This runs the recipe reconstruct-photo, whose fields are options (--image, --metric, --steps, --size, ...), then
    guide-pocket and invert-pocket in their defaults; with --only the options are the fields of that part's recipe.
    """

    to: Path = Path("demo")
    """Folder of the pictures, the numbers and the record of the run; an earlier demo in it is replaced."""
    only: Literal["reconstruction", "guided", "inversion"] | None = None
    """Run one of the parts."""

    def __call__(self, words: Sequence[str] = ()) -> int:
        for part in [self.only] if self.only else PARTS:
            name, picture = PARTS[part]
            first = self.only or part == "reconstruction"
            folder = self.to if first else self.to / part
            code, results = execute(with_fields(registry.load(name), words if first else ()), folder, replace=True)
            if code:
                return code
            if part == "guided":
                print_distances(results)
            else:
                print_table(results["distances"])
            print((folder / picture).as_posix())
        return 0
