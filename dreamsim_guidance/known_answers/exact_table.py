"""The table of errors against the exact posterior, and its picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import writing

__all__ = ["draw", "remainders", "write_csv", "write_markdown"]

Row = dict[str, Any]


def remainders(rows: list[Row]) -> list[Row]:
    """For each case, method, sampler and strength: the Wasserstein distance at the fewest and at the most steps, the floor, and
    what is above it, sqrt(max(0, W^2 - floor^2)): bias, and for few steps the sampler's error."""
    found = []
    for group in _groups(rows).values():
        first, last = group[0], group[-1]
        floor = last["floor wasserstein"]
        found.append(
            {
                **{name: last[name] for name in ("case", "method", "sampler", "strength", "exact", "steps")},
                "first": first["wasserstein"],
                "wasserstein": last["wasserstein"],
                "floor": floor,
                "above floor": math.sqrt(max(0.0, last["wasserstein"] ** 2 - floor**2)),
            }
        )
    return found


def write_csv(file: Path, rows: list[Row]) -> None:
    """All cells, a line for each."""
    with writing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_markdown(file: Path, rows: list[Row], left: list[Row]) -> None:
    """A table for each case: the Wasserstein distance against steps, then errors of mean, covariance and weights."""
    steps = sorted({row["steps"] for row in rows})
    lines = [
        "# Guidance against the exact posterior",
        "",
        "Wasserstein distance by number of steps; floor: of as many exact samples. Exact methods can only err by the",
        "sampler's steps. mean, covariance, weights: errors at the most steps (floors in brackets).",
        "",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        lines += [f"## {case}", ""]
        head = ["method", "sampler", "strength", "exact", *(f"{n} steps" for n in steps), "floor", "above floor"]
        lines += [_line([*head, "mean", "covariance", "weights"]), _line(["---"] * (len(head) + 3))]
        for one, group in zip(left, _groups(rows).values(), strict=True):
            if one["case"] != case:
                continue
            by_steps = {row["steps"]: row["wasserstein"] for row in group}
            last = group[-1]
            lines.append(
                _line(
                    [
                        *(one["method"], one["sampler"], f"{one['strength']:g}", "yes" if one["exact"] else "no"),
                        *(_number(by_steps[n]) for n in steps),
                        *(_number(one["floor"]), _number(one["above floor"])),
                        *(
                            f"{_number(last[name])} ({_number(last[f'floor {name}'])})"
                            for name in ("mean", "covariance", "weights")
                        ),
                    ]
                )
            )
        lines.append("")
    with writing(file) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")


def draw(file: Path, rows: list[Row]) -> None:
    """A panel for each case and sampler: the Wasserstein distance against steps, exact methods in full lines."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    cases, samplers = (list(dict.fromkeys(row[name] for row in rows)) for name in ("case", "sampler"))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    colours = dict(zip(methods, colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
    figure = Figure(figsize=(3.4 * len(samplers) + 1.6, 2.6 * len(cases) + 0.5), layout="constrained")
    panels = figure.subplots(len(cases), len(samplers), squeeze=False, sharex=True, sharey="row")
    shown: dict[str, Any] = {}
    for (case, method, sampler, _), group in _groups(rows).items():
        axis = panels[cases.index(case)][samplers.index(sampler)]
        style = "o-" if group[0]["exact"] else "o:"  # exact methods in full lines
        finite = [row for row in group if math.isfinite(row["wasserstein"])]
        (line,) = axis.plot(
            *zip(*((row["steps"], row["wasserstein"]) for row in finite), strict=True) if finite else ([], []),
            style,
            color=colours[method],
            markersize=3,
            linewidth=1.8 if group[0]["exact"] else 1.1,
        )
        shown.setdefault(method, line)
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
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False, fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=120)


def _groups(rows: list[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that differ by their steps alone, in order of these."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in ("case", "method", "sampler", "strength")), []).append(row)
    return {key: sorted(group, key=lambda row: row["steps"]) for key, group in found.items()}


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) and value < 1000 else "diverged"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
