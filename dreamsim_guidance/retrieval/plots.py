"""Pictures of distances: a heat map of a matrix, and the distances of frames over time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.plots import short
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.retrieval.consistency import Consistency

__all__ = ["ENDINGS", "write_consistency", "write_heat_map"]

ENDINGS = frozenset(f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes())
"""Endings of the files that can be drawn to."""

_NAMED = 60
"""Up to so many pictures are named beside the heat map."""
_SIDE = 1200
"""Cells on a side of the heat map; larger matrices are averaged."""
_MOST_VIDEOS = 10


def write_heat_map(matrix: NDArray[np.float32], names: Sequence[str], file: Path) -> None:
    """Draw a matrix of distances `(n, n)` to a picture file. Raises ValueError for an unknown ending."""
    named = len(names) <= _NAMED
    side = max(4.5, min(14.0, 2.5 + 0.16 * len(names)))
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=150)
    axes = figure.subplots()
    image = axes.imshow(
        _averaged(matrix), cmap="viridis_r", vmin=0, interpolation="nearest", extent=_extent(len(names))
    )
    figure.colorbar(image, ax=axes, label="distance", shrink=0.8)
    if named:
        labels = [short(printable(name).rpartition("/")[2]) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=90, fontsize=6, parse_math=False)
        axes.set_yticks(range(len(names)), labels, fontsize=6, parse_math=False)
    _save(figure, file)


def write_consistency(results: Mapping[str, Consistency], file: Path) -> None:
    """Draw the distances of frames to the one before and to the first, one panel for each of the first ten videos."""
    shown = list(results.items())[:_MOST_VIDEOS]
    figure = Figure(figsize=(8, 1 + 2.1 * len(shown)), layout="constrained", dpi=150)
    for axes, (name, result) in zip(figure.subplots(len(shown), squeeze=False).flat, shown, strict=True):
        frames = np.arange(2, len(result.previous_distances) + 2)
        axes.plot(frames, result.previous_distances, label="to the frame before", color="#2563a8")
        axes.plot(frames, result.first_distances, label="to the first frame", color="#c2571a")
        axes.set_title(f"{printable(name)[-80:]}: {result.score:.4f}", fontsize=9, parse_math=False)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="frame", ylabel="distance")
        axes.legend(frameon=False, fontsize=8)
    _save(figure, file)


def _averaged(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The matrix with at most `_SIDE` rows and columns, each the mean of several."""
    edges = np.linspace(0, len(matrix), min(len(matrix), _SIDE) + 1).astype(int)
    widths = np.diff(edges)
    sums = np.add.reduceat(np.add.reduceat(matrix, edges[:-1], 0), edges[:-1], 1)
    return (sums / widths[:, None] / widths[None]).astype(np.float32)


def _extent(count: int) -> tuple[float, float, float, float]:
    return (-0.5, count - 0.5, count - 0.5, -0.5)


def _save(figure: Figure, file: Path) -> None:
    with writing(file) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that the font lacks
        figure.savefig(temporary)
