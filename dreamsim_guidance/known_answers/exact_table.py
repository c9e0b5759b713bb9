"""The table of errors against the exact posterior as CSV and Markdown, and its picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table

__all__ = ["draw", "remainders", "write_csv", "write_markdown"]

Row = dict[str, Any]


def remainders(rows: list[Row]) -> list[Row]:
    """One row for each case, method, sampler and strength: the Wasserstein distance at the fewest and at the most steps, its
    floor, and what is above the floor, sqrt(max(0, W^2 - floor^2)): the method's bias and the sampler's error."""
    remaining = []
    for group in _groups(rows).values():
        first, last = group[0], group[-1]
        floor = last["floor wasserstein"]
        remaining.append(
            {
                **{name: last[name] for name in ("case", "method", "sampler", "strength", "exact", "steps")},
                "first": first["wasserstein"],
                "wasserstein": last["wasserstein"],
                "floor": floor,
                "above floor": math.sqrt(max(0.0, last["wasserstein"] ** 2 - floor**2)),
            }
        )
    return remaining


def write_csv(file: Path, rows: list[Row]) -> None:
    """Write all rows, one line each."""
    with writing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_markdown(file: Path, rows: list[Row], remaining: list[Row]) -> None:
    """Write a table for each case: the Wasserstein distance by steps, then the errors of mean, covariance and weights.

    remaining: what `remainders` makes of the rows.
    """
    steps = sorted({row["steps"] for row in rows})
    columns = ["method", "sampler", "strength", "exact", *(f"{n} steps" for n in steps), "floor", "above floor"]
    columns += ["mean", "covariance", "weights"]
    text = _INTRODUCTION
    for case in dict.fromkeys(row["case"] for row in rows):
        lines = []
        for row, group in zip(remaining, _groups(rows).values(), strict=True):
            if row["case"] == case:
                by_steps = {each["steps"]: each["wasserstein"] for each in group}
                lines.append(
                    [
                        *(row["method"], row["sampler"], f"{row['strength']:g}", "yes" if row["exact"] else "no"),
                        *(_number(by_steps[n]) for n in steps),
                        *(_number(row["floor"]), _number(row["above floor"])),
                        *(_with_floor(group[-1], name) for name in ("mean", "covariance", "weights")),
                    ]
                )
        text += f"\n## {case}\n\n{markdown_table(columns, lines)}\n"
    with writing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


_INTRODUCTION = """\
# Guidance against the exact posterior

Wasserstein distance by number of steps; floor: that of as many exact samples. Exact methods can only err by the sampler's
steps. mean, covariance, weights: errors at the most steps, with the floors in brackets.
"""


def draw(file: Path, rows: list[Row]) -> None:
    """Draw a panel for each case and sampler: the Wasserstein distance against steps, exact methods in solid lines."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    cases, samplers = (list(dict.fromkeys(row[name] for row in rows)) for name in ("case", "sampler"))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = dict(zip(methods, colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
    figure = Figure(figsize=(3.4 * len(samplers) + 1.6, 2.6 * len(cases) + 0.5), layout="constrained")
    panels = figure.subplots(len(cases), len(samplers), squeeze=False, sharex=True, sharey="row")
    lines: dict[str, Any] = {}
    for (case, method, sampler, _), group in _groups(rows).items():
        axis = panels[cases.index(case)][samplers.index(sampler)]
        style = "o-" if group[0]["exact"] else "o:"
        finite = [row for row in group if math.isfinite(row["wasserstein"])]
        (line,) = axis.plot(
            *zip(*((row["steps"], row["wasserstein"]) for row in finite), strict=True) if finite else ([], []),
            style,
            color=colours[method],
            markersize=3,
            linewidth=1.8 if group[0]["exact"] else 1.1,
        )
        lines.setdefault(method, line)
        if method != "none":
            axis.axhline(group[-1]["floor wasserstein"], color="0.7", linewidth=0.8, zorder=0)
        axis.set_title(f"{case}, {sampler}", fontsize=9)
        axis.set_xscale("log")
        axis.set_yscale("log")
    for row_of_panels in panels:
        row_of_panels[0].set_ylabel("Wasserstein distance", fontsize=8)
    steps = sorted({row["steps"] for row in rows})
    for axis in panels[-1]:
        axis.set_xlabel("steps", fontsize=8)
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.set_xticks([], minor=True)
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", frameon=False, fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=120)


def _groups(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows by case, method, sampler and strength, sorted by their numbers of steps."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("case", "method", "sampler", "strength")), []).append(row)
    return {key: sorted(group, key=lambda row: row["steps"]) for key, group in groups.items()}


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) and value < 1000 else "diverged"


def _with_floor(row: Row, name: str) -> str:
    return f"{_number(row[name])} ({_number(row[f'floor {name}'])})"
