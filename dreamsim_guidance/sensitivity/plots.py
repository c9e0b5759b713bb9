"""Plots of an analysis as SVG, several metrics side by side in one colour each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dreamsim_guidance.evaluation.plots import short, svg
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.sensitivity.correlations import FeatureCorrelation
from dreamsim_guidance.sensitivity.drawn_pictures import REDRAWN
from dreamsim_guidance.sensitivity.factors import FactorProfile
from dreamsim_guidance.sensitivity.masking import MaskedDecisions
from dreamsim_guidance.sensitivity.robustness import Robustness

__all__ = ["correlation_plot", "distortion_plot", "factor_plot", "masking_plot", "step_plot"]

_COLOURS = ("#2563a8", "#c2571a", "#2b8a5b", "#8a4fa3", "#b0862b", "#5b6475", "#c23a5b", "#3aa0b0")
_MARKERS = "osD^v"
"""A metric has one of eight colours; the next eight have another marker."""
_QUIET = "#8a93a6"

Rows = Mapping[str, Interval]


def factor_plot(profiles: Mapping[str, FactorProfile]) -> bytes:
    """The relative distance and the share of each factor at its largest step."""
    relative = {name: {f: steps[-1].relative for f, steps in p.steps.items()} for name, p in profiles.items()}
    share = {name: p.share for name, p in profiles.items()}
    rows = list(next(iter(relative.values())))
    panels = (
        ("distance / distance of unrelated scenes", relative, 0.0),
        ("share of all factors", share, 1 / sum(row != REDRAWN for row in rows)),
    )
    return _dots(rows, panels)


def step_plot(profiles: Mapping[str, FactorProfile]) -> bytes:
    """Relative distance against the known difference, for each factor with several steps."""
    factors = [f for f, steps in next(iter(profiles.values())).steps.items() if len(steps) > 1]

    def curve(name: str, factor: str) -> tuple[list[float], list[Interval]]:
        steps = profiles[name].steps[factor]
        return [step.known for step in steps], [step.relative for step in steps]

    return _curves(list(profiles), factors, curve, "known difference")


def masking_plot(results: Mapping[str, MaskedDecisions]) -> bytes:
    """The share of decisions that are kept under each condition."""
    kept = {name: {"foreground alone": r.foreground, "background alone": r.background} for name, r in results.items()}
    return _dots(["foreground alone", "background alone"], (("share of decisions kept", kept, 0.5),))


def correlation_plot(results: Mapping[str, Mapping[str, FeatureCorrelation]]) -> bytes:
    """Agreement, rank correlation, and joint coefficient of each feature."""
    rows = list(next(iter(results.values())))
    panels: list[tuple[str, dict[str, dict[str, Interval]], float]] = []
    for title, attribute, chance in (
        ("agreement of decisions", "agreement", 0.5),
        ("rank correlation", "correlation", 0.0),
        ("joint coefficient (log-odds)", "joint", 0.0),
    ):
        panels.append(
            (title, {n: {f: getattr(c, attribute) for f, c in r.items()} for n, r in results.items()}, chance)
        )
    return _dots(rows, panels)


def distortion_plot(results: Mapping[str, Robustness]) -> bytes:
    """Relative distance against strength, one panel for each kind of distortion."""
    kinds = list(next(iter(results.values())).curves)

    def curve(name: str, kind: str) -> tuple[list[float], list[Interval]]:
        c = results[name].curves[kind]
        return list(c.strengths), c.relative

    return _curves(list(results), kinds, curve, "strength")


def _dots(rows: Sequence[str], panels: Sequence[tuple[str, Mapping[str, Rows], float]]) -> bytes:
    """Panels of dots with intervals: a line for each row and, within it, for each metric; a dotted line at chance."""
    names = list(panels[0][1])

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (title, values, chance) in zip(axes, panels, strict=True):
            axis.set_title(title)
            axis.axvline(chance, color=_QUIET, linewidth=1, linestyle=":")
            axis.grid(axis="x", color="#e6e9ef", linewidth=0.8)
            axis.set_axisbelow(True)
            for i, name in enumerate(names):
                colour, marker = _style(i)
                places = np.arange(len(rows)) + (i - (len(names) - 1) / 2) * 0.7 / len(names)
                for y, row in zip(places, rows, strict=True):
                    interval = values[name].get(row)
                    if interval is None or not np.isfinite(interval.value):
                        continue
                    if np.isfinite(interval.low):
                        axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=1.8)
                    axis.plot([interval.value], [y], marker, color=colour, markersize=4)
            axis.set_yticks(range(len(rows)), list(rows))
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.tick_params(length=0)
        _legend(figure, names, width)

    width = 2.9 * len(panels) + 1.4
    height = len(rows) * max(0.3, 0.13 * len(names)) + 0.9 + _legend_height(names, width)
    return svg(draw, width, height)


def _curves(names: Sequence[str], panels: Sequence[str], curve: Any, label: str) -> bytes:
    """Panels of curves with bands: `curve(name, panel)` returns x and the intervals of one."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            for i, name in enumerate(names):
                x, intervals = curve(name, panel)
                values = np.array([interval.value for interval in intervals])
                if not np.isfinite(values).any():
                    continue
                low, high = np.array([[interval.low, interval.high] for interval in intervals]).T
                colour, marker = _style(i)
                axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                axis.plot(x, values, f"{marker}-", color=colour, markersize=3, linewidth=1.4)
            axis.set_title(panel)
            axis.set_xlim(0, None)
            axis.set_ylim(0, None)
            axis.locator_params(nbins=4)
        for axis in axes[-1]:
            axis.set_xlabel(label)
        for row in axes:
            row[0].set_ylabel("relative distance")
        _legend(figure, names, width)

    width = 2.2 * columns + 0.5
    return svg(draw, width, 1.75 * rows + 0.4 + _legend_height(names, width))


def _style(place: int) -> tuple[str, str]:
    """The colour and the marker of a metric by its place among all."""
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place // len(_COLOURS) % len(_MARKERS)]


def _legend_columns(names: Sequence[str], width: float) -> int:
    """At most four, and as many as fit into the width of the plot, in inches."""
    return max(1, min(4, len(names), int(width / (0.65 + 0.075 * max(len(short(name)) for name in names)))))


def _legend_height(names: Sequence[str], width: float) -> float:
    return 0.2 * -(-len(names) // _legend_columns(names, width))


def _legend(figure: Figure, names: Sequence[str], width: float) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_style(i)[0], marker=_style(i)[1], markersize=4, label=short(name))
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=_legend_columns(names, width), frameon=False)
