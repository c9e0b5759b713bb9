"""The table of guided digits, and a picture of some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.known_answers.digit_set import CLASSES, SIDE

__all__ = ["draw", "write_markdown"]

_EACH = 2
"""Samples of a class in the picture."""


def write_markdown(file: Path, results: dict[str, Any]) -> None:
    """One row for each method."""
    names = ("guide", "judge", "frechet", "diversity")
    lines = [
        "# Guided digits",
        "",
        "guide, judge: share of samples that show their class, by the guiding classifier and by nearest neighbours among",
        "digits that it has not seen. frechet: distance per class from real digits. diversity: mean distance of two samples",
        "of a class.",
        "",
        "| method | strength | guide | judge | frechet | diversity | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    real = results["real"]
    lines.append(
        f"| real digits, one half by the other | | {' | '.join(_number(name, real[name]) for name in names)} | |"
    )
    for row in results["rows"]:
        strength = "" if row["strength"] is None else f"{row['strength']:g}"
        numbers = " | ".join(_number(name, row[name]) for name in names)
        lines.append(f"| {row['method']} | {strength} | {numbers} | {row['seconds']:.1f} |")
    with writing(file) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(file: Path, results: dict[str, Any], folder: Path) -> None:
    """Samples of each row of the table, classes from left to right; `folder` holds their images."""
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


def _number(name: str, value: float) -> str:
    return f"{value:.3f}" if name in ("guide", "judge") else f"{value:.2f}"
