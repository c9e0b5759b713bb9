"""The table of guided digits as Markdown, and a picture of some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.known_answers.digit_set import CLASSES, SIDE

__all__ = ["draw", "write_markdown"]

_EACH = 2
"""Samples of a class in the picture."""


def write_markdown(file: Path, results: dict[str, Any]) -> None:
    """Write the results of `GuidedDigits.run`, one row for each method."""
    columns = ["method", "strength", *_FORMATS]
    rows = [["real digits, one half judged by the other", None, *_numbers(results["real"])]]
    for row in results["rows"]:
        rows.append([row["method"], None if row["strength"] is None else f"{row['strength']:g}", *_numbers(row)])
    with writing(file) as temporary:
        temporary.write_text(f"{_INTRODUCTION}\n{markdown_table(columns, rows)}\n", encoding="utf-8")


def draw(file: Path, results: dict[str, Any], folder: Path) -> None:
    """Draw samples of each row of the table, classes from left to right.

    folder: that of the rows' images, METHOD.npy.
    """
    from matplotlib.figure import Figure

    rows = results["rows"]
    figure = Figure(figsize=(8.5, 0.42 * len(rows) + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, row in zip(panels, rows, strict=True):
        images = np.load(folder / f"{row['method']}.npy")
        order = [k + CLASSES * i for k in range(CLASSES) for i in range(_EACH) if k + CLASSES * i < len(images)]
        gap = np.zeros((SIDE, 1), dtype=np.uint8)
        strip = np.concatenate([part for i in order for part in (images[i], gap)], axis=1)
        axis.imshow(255 - strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(row["method"], rotation=0, ha="right", va="center", fontsize=8)
        axis.yaxis.set_label_coords(-0.01, 0.5)
        axis.text(
            1.01,
            0.5,
            f"judge {row['judge']:.3f}  frechet {row['frechet']:.2f}",
            transform=axis.transAxes,
            fontsize=8,
            va="center",
        )
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=150)


_INTRODUCTION = """\
# Guided digits

guide, judge: share of samples that show their class, according to the guiding classifier and to nearest neighbours among
digits that it has not seen. frechet: distance from real digits, mean over classes. diversity: mean distance of two samples
of a class. seconds: of sampling the row.
"""

_FORMATS = {"guide": ".3f", "judge": ".3f", "frechet": ".2f", "diversity": ".2f", "seconds": ".1f"}


def _numbers(row: dict[str, Any]) -> list[str | None]:
    return [format(row[name], digits) if name in row else None for name, digits in _FORMATS.items()]
