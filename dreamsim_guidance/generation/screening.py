"""Screen generated triplets by the metric: drop copies and what lies outside of the bounds, and report all of it.

A triplet is dropped for the first of these reasons that applies:

    flagged       the model's safety checker objected to one of its pictures
    same file     two of its pictures are the same, byte for byte, or one is a picture of an earlier triplet that was kept
    duplicate     two of its pictures are nearer to each other than `duplicate`
    too near      a variation is nearer to the reference than `least`
    too far       a variation is farther from the reference than `most`
    unequal       the two variations' distances to the reference differ by more than `most_difference`
    across        one of its pictures is nearer than `across` to a picture of an earlier triplet that was kept
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.triplet_folder import TripletRow, is_swapped, split_of, write_triplet_rows
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.generation.plan import Plan, PlannedTriplet, Screen
from dreamsim_guidance.generation.records import Record
from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["REASONS", "Measured", "Screening", "screen"]

REASONS = ("flagged", "same file", "duplicate", "too near", "too far", "unequal", "across")
_BLOCK = 1024
"""Pictures at a time, to bound the memory."""


@dataclass(frozen=True)
class Measured:
    """A triplet and what the screening found.

    distances: of variation 0 to the reference, of variation 1 to the reference, and between both.
    dropped: the reason for which it was left out; None if it was kept.
    """

    triplet: PlannedTriplet
    way: str
    distances: tuple[float, float, float]
    dropped: str | None

    @property
    def name(self) -> str:
        """The way and its amounts: "seed", "guide 0.1", "noise 0.3 and 0.6"."""
        if self.way == "seed":
            return self.way
        return f"{self.way} {' and '.join(dict.fromkeys(f'{amount:g}' for amount in self.triplet.amounts))}"

    @property
    def difference(self) -> float:
        """By how much the distances of both variations to the reference differ."""
        return abs(self.distances[0] - self.distances[1])


@dataclass(frozen=True)
class Screening:
    """All triplets of a plan, measured by the metric, and the rows of those that were kept."""

    metric: str
    rules: Screen
    triplets: tuple[Measured, ...]
    rows: tuple[TripletRow, ...]

    @property
    def kept(self) -> list[Measured]:
        return [triplet for triplet in self.triplets if triplet.dropped is None]

    def report(self) -> dict[str, Any]:
        """The content of screening.json."""
        return {
            "metric": self.metric,
            "rules": vars(self.rules),
            "triplets": len(self.triplets),
            "kept": len(self.rows),
            "dropped": self.dropped,
            "splits": dict(Counter(row.split for row in self.rows)),
            "ways": {name: _summary(triplets) for name, triplets in self.by_name().items()},
            "dropped_triplets": [
                {"id": t.triplet.number, "reason": t.dropped, "distances": t.distances, "files": t.triplet.files}
                for t in self.triplets
                if t.dropped is not None
            ],
        }

    def by_name(self) -> dict[str, list[Measured]]:
        """All triplets by way and amount."""
        groups: dict[str, list[Measured]] = {}
        for triplet in self.triplets:
            groups.setdefault(triplet.name, []).append(triplet)
        return groups

    def table(self) -> dict[str, dict[str, float | int | None]]:
        """For each way, the number of triplets and the mean of what `report` says of their distances."""
        rows: dict[str, dict[str, float | int | None]] = {}
        for name, triplets in self.by_name().items():
            summary = _summary(triplets)
            means = {key: summary.get(key, {}).get("mean") for key in ("distance", "difference", "error")}
            rows[name] = {"triplets": summary["triplets"], "kept": summary["kept"], **means}
        return rows

    @property
    def dropped(self) -> dict[str, int]:
        """How many triplets were dropped for each reason."""
        return {reason: sum(t.dropped == reason for t in self.triplets) for reason in REASONS}


def screen(
    plan: Plan, folder: Path, records: Mapping[str, Record], metric: DreamSim, progress: bool = True
) -> Screening:
    """Measure all triplets in a folder, and write data.csv with those that pass.

    records: of all pictures, by file. metric: the plan's.
    """
    triplets = list(plan.triplets())
    files = [folder / name for triplet in triplets for name in triplet.files]
    rows = EmbeddingMetric(plan.metric, metric).directions(files, progress)
    directions = rows.reshape(len(triplets), 3, -1)
    distances = np.stack([_half_chord(directions[:, i], directions[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))], 1)
    seen: set[str] = set()
    kept: list[int] = []
    measured = []
    for place, triplet in enumerate(triplets):
        entries = [records[name] for name in triplet.files]
        reason = _reason(entries, seen, distances[place], plan.screen)
        if (
            reason is None
            and plan.screen.across > 0
            and _is_near(directions[place], directions, kept, plan.screen.across)
        ):
            reason = "across"
        if reason is None:
            kept.append(place)
            seen.update(str(entry["sha256"]) for entry in entries)
        first, second, between = (float(value) for value in distances[place])
        way = plan.ways[triplet.way].way
        measured.append(Measured(triplet, way, (first, second, between), reason))
    chosen = tuple(_row(plan, measured[place]) for place in kept)
    write_triplet_rows(folder, chosen)
    return Screening(plan.metric, plan.screen, tuple(measured), chosen)


def _reason(entries: list[Record], seen: set[str], distances: NDArray[np.float64], rules: Screen) -> str | None:
    digests = [str(entry["sha256"]) for entry in entries]
    if any(entry["safety"] == "flagged" for entry in entries):
        return "flagged"
    if len(set(digests)) < 3 or seen & set(digests):
        return "same file"
    if distances.min() < rules.duplicate:
        return "duplicate"
    if distances[:2].min() < rules.least:
        return "too near"
    if rules.most is not None and distances[:2].max() > rules.most:
        return "too far"
    if rules.most_difference is not None and abs(distances[0] - distances[1]) > rules.most_difference:
        return "unequal"
    return None


def _half_chord(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    return 0.5 * np.square(a.astype(np.float64) - b).sum(-1)


def _is_near(pictures: NDArray[np.float32], directions: NDArray[np.float32], kept: list[int], limit: float) -> bool:
    """Whether one of these pictures is nearer than the limit to a picture of the triplets that were kept."""
    for first in range(0, len(kept), _BLOCK):
        others = directions[kept[first : first + _BLOCK]].reshape(-1, pictures.shape[-1])
        if 1 - float((others @ pictures.T).max()) < limit:  # both are unit vectors
            return True
    return False


def _row(plan: Plan, measured: Measured) -> TripletRow:
    """The line of data.csv; which variation stands on the left is drawn, so the side says nothing about the way."""
    triplet, (reference, *variations) = measured.triplet, measured.triplet.files
    key = str(triplet.number)
    sides = (1, 0) if is_swapped(key, plan.seed) else (0, 1)
    return TripletRow(
        id=key,
        reference=reference,
        left=variations[sides[0]],
        right=variations[sides[1]],
        split=split_of(triplet.category if plan.split_by == "category" else key, plan.seed, plan.shares),
        is_imagenet=triplet.is_imagenet,
        prompt=triplet.prompt,
        way=measured.way,
        left_distance=measured.distances[sides[0]],
        right_distance=measured.distances[sides[1]],
    )


def _summary(triplets: list[Measured]) -> dict[str, Any]:
    """The distances of one way and amount, over all of its triplets whose pictures passed the safety checker."""
    measured = [t for t in triplets if t.dropped != "flagged"]
    result: dict[str, Any] = {"triplets": len(triplets), "kept": sum(t.dropped is None for t in triplets)}
    if not measured:
        return result
    distances = np.array([t.distances for t in measured])
    differences = np.array([t.difference for t in measured])
    result["distance"] = _quantiles(distances[:, :2].ravel())
    result["between_variations"] = _quantiles(distances[:, 2])
    result["difference"] = _quantiles(differences)
    if triplets[0].way == "guide":
        result["error"] = _quantiles(np.abs(distances[:, :2] - triplets[0].triplet.amounts).ravel())
    return result


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"mean": float(values.mean()), "5 %": float(low), "median": float(median), "95 %": float(high)}
