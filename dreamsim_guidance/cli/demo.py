"""The command `demo`: what the library does, in four pictures and two minutes."""

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
    "search": ("search-photographs", "sheet.png"),
    "guided": ("guide-pocket", "sheet.png"),
    "inversion": ("invert-pocket", "sheet.png"),
}
"""The parts of the demo: the recipe of each and the picture that it draws."""


@dataclass(frozen=True)
class DemoCommand:
    """Reconstruct a photograph from noise by the gradient of the metric; find photographs again from other parts of them; guide
    a small diffusion model to a scene; find the noise from which such a model draws a scene.

    Photographs are seen by real towers where the extra `photographs` is installed, else by the pocket models. This runs the
    recipe reconstruct-photo, whose fields are options (--image, --metric, --steps, --size, ...), then search-photographs,
    guide-pocket and invert-pocket in their defaults; with --only the options are the fields of that part's recipe.
    """

    to: Path = Path("demo")
    """Folder of the pictures, the numbers and the record of the run; an earlier demo in it is replaced."""
    only: Literal["reconstruction", "search", "guided", "inversion"] | None = None
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
