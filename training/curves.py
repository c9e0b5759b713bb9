"""The course of a training run as a picture, one panel for each quantity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import writing

__all__ = ["draw_curves", "draw_panels"]

_PANELS = {
    "loss": ("loss", "validation loss"),
    "agreement with the majority": ("agreement", "validation agreement"),
    "learning rate": ("learning rate",),
}


def draw_curves(history: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw loss, agreement and learning rate over the steps; each row of `history` holds a step and some of these."""
    panels = {
        title: {name: [(row["step"], row[name]) for row in history if name in row] for name in names}
        for title, names in _PANELS.items()
    }
    draw_panels(panels, file)


def draw_panels(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], file: Path) -> None:
    """Draw panels side by side: title -> name of a curve -> its points (step, value)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, points in curves.items():
            if points:
                marker = "o" if name.startswith("validation") else None
                axis.plot(*zip(*points, strict=True), label=name, marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.lines and len(curves) > 1:
            axis.legend(fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=110)
