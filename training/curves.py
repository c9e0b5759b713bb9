"""The course of a training run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import writing

__all__ = ["draw_curves"]

_PANELS = {
    "loss": ("loss", "validation loss"),
    "agreement with the majority": ("agreement", "validation agreement"),
    "learning rate": ("learning rate",),
}


def draw_curves(history: Sequence[dict[str, Any]], file: Path) -> None:
    """Loss, agreement and learning rate over the steps; rows of `history` hold a step and some of these."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, names) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for name in names:
            rows = [(row["step"], row[name]) for row in history if name in row]
            if rows:
                marker = "o" if name.startswith("validation") else None
                axis.plot(*zip(*rows, strict=True), label=name, marker=marker, markersize=3, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.lines and len(names) > 1:
            axis.legend(fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=110)
