"""Plots of a report, as SVG: agreement with intervals, psychometric curves, distances against scores."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.report import Report
from dreamsim_guidance.evaluation.statistics.psychometric import Curve
from dreamsim_guidance.evaluation.statistics.rank_correlation import fit_logistic

__all__ = ["agreement_plot", "curves_plot", "scatter_plot", "short", "svg"]

_INK, _QUIET, _ACCENT, _WARM = "#1d2433", "#8a93a6", "#2563a8", "#c2571a"
_PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
_LONGEST = 26
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": _QUIET,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "text.parse_math": False,  # a file name may contain a dollar sign
    "svg.fonttype": "path",
    "svg.hashsalt": "dreamsim_guidance",
}


def short(name: str) -> str:
    """`name`, or the end of it if it is too long to stand beside an axis."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def agreement_plot(report: Report) -> bytes:
    """One panel per measure: each metric with its interval, the best on top; lines show what people reach."""
    measures = list(report.measures)
    first = measures[0]

    def value(name: str) -> float:
        interval = report.agreement[name].get(first)
        return -np.inf if interval is None else interval.value

    names = sorted(report.agreement, key=value)
    columns = min(4, len(measures))
    rows = -(-len(measures) // columns)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(measures) :]:
            axis.set_visible(False)
        for axis, measure in zip(axes.flat, measures, strict=False):
            axis.set_title(measure)
            axis.grid(axis="x", color="#e6e9ef", linewidth=0.8)
            axis.set_axisbelow(True)
            for y, name in enumerate(names):
                if (interval := report.agreement[name].get(measure)) is None:
                    continue
                if np.isfinite(interval.low):
                    axis.plot(
                        [interval.low, interval.high], [y, y], color=_ACCENT, linewidth=2.2, solid_capstyle="round"
                    )
                axis.plot([interval.value], [y], "o", color=_ACCENT, markersize=6)
                axis.annotate(
                    f"{interval.value:.3f}",
                    (interval.value, y),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    bbox=_PLATE,
                )
            axis.set_yticks(range(len(names)), [short(name) for name in names])
            axis.set_ylim(-0.6, len(names) - 0.3)
            axis.tick_params(length=0)
            if measure == "fraction" and report.ceiling is not None:
                axis.axvline(
                    report.ceiling, color=_WARM, linewidth=1.2, linestyle="--", label="one person with another"
                )
            if measure == "fraction" and report.limit is not None:
                axis.axvline(report.limit, color=_QUIET, linewidth=1.2, linestyle=":", label="most on these votes")
            axis.margins(x=0.12)
        handles, labels = (
            axes.flat[measures.index("fraction")].get_legend_handles_labels() if "fraction" in measures else ([], [])
        )
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)

    return svg(draw, 2.5 * columns + 1.6, rows * (0.9 + 0.34 * len(names)) + 0.3)


def curves_plot(curves: Mapping[str, Curve]) -> bytes | None:
    """One panel per metric: means over bins with intervals, and the fitted curve, dashed if the votes do not determine it.

    Returns None if there is no curve to show."""
    with_bins = {name: curve for name, curve in curves.items() if curve.bins}
    if not with_bins:
        return None
    columns = min(4, len(with_bins))
    rows = -(-len(with_bins) // columns)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(with_bins) :]:
            axis.set_visible(False)
        for axis, (name, curve) in zip(axes.flat, with_bins.items(), strict=False):
            gaps = [point.gap for point in curve.bins]
            values = np.array([point.agreement.value for point in curve.bins])
            bounds = np.array([[point.agreement.low, point.agreement.high] for point in curve.bins])
            bounds = np.where(np.isfinite(bounds), bounds, values[:, None])
            axis.axhline(0.5, color=_QUIET, linewidth=0.8, linestyle=":")
            if np.isfinite(curve.slope):
                x = np.linspace(0, max(gaps) * 1.08, 200)
                axis.plot(x, curve(x), color=_WARM, linewidth=1.6, linestyle="-" if curve.identified else "--")
            axis.vlines(gaps, bounds[:, 0], bounds[:, 1], color=_ACCENT, linewidth=1.6)
            axis.plot(gaps, values, "o", color=_ACCENT, markersize=4.5)
            axis.set_title(short(name))
            axis.set_xlabel("gap between the two distances")
            axis.set_ylim(min(0.35, float(bounds.min()) - 0.03), 1.02)
            axis.set_xlim(0, None)
            axis.locator_params(axis="x", nbins=5)
        for row in axes:
            row[0].set_ylabel("votes that agree")

    return svg(draw, 2.6 * columns + 0.6, 2.3 * rows + 0.2)


def scatter_plot(distances: Mapping[str, NDArray[np.float64]], scores: NDArray[np.float64]) -> bytes:
    """Quality scores against distances, one panel per metric, with the fitted curve."""
    columns = min(4, len(distances))
    rows = -(-len(distances) // columns)
    some = np.random.default_rng(0).permutation(len(scores))[:3000]  # more points would only make the file larger

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axis in axes.flat[len(distances) :]:
            axis.set_visible(False)
        for axis, (name, values) in zip(axes.flat, distances.items(), strict=False):
            axis.plot(values[some], scores[some], ".", color=_ACCENT, alpha=0.35, markersize=3, rasterized=True)
            order = np.argsort(values)
            axis.plot(values[order], fit_logistic(-values, scores)[order], color=_WARM, linewidth=1.6, rasterized=True)
            axis.set_title(short(name))
            axis.set_xlabel("distance")
            axis.locator_params(axis="x", nbins=5)
        for row in axes:
            row[0].set_ylabel("score")

    return svg(draw, 2.6 * columns + 0.6, 2.3 * rows + 0.2)


def svg(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    """Draw into a figure of this size in inches, in the style of the reports, and return it as SVG."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about characters that the font lacks
        figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
