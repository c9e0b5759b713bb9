"""The log of a pocket model's training: lines of text in training.txt, drawn as curves at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from dreamsim_guidance.training.curves import draw_panels

__all__ = ["draw_training", "line_writer"]

log = logging.getLogger(__name__)


def line_writer(path: Path) -> Callable[[str], None]:
    """A function that appends a line to the file `path` and logs it."""

    def write(line: str) -> None:
        log.debug(line)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return write


def draw_training(path: Path, picture: Path) -> None:
    """Draw loss and agreement of every branch over its steps, from lines "NAME step STEP loss|agreement VALUE ..."."""
    curves: dict[str, dict[str, dict[int, float]]] = {"loss": {}, "agreement": {}}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, step, quantity, value, *_ = line.split()
        curves[quantity].setdefault(name, {})[int(step)] = float(value)  # a resumed run writes some steps again
    titles = {"loss": "loss", "agreement": "agreement on scenes for validation"}
    panels = {
        titles[quantity]: {name: sorted(points.items()) for name, points in sorted(branches.items())}
        for quantity, branches in curves.items()
    }
    draw_panels(panels, picture)
