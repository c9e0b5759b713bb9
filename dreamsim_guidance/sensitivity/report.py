"""The result of an analysis: all numbers with their intervals, and the files that are written from it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import plain, write_json, write_text, writing
from dreamsim_guidance.sensitivity.correlations import FeatureCorrelation
from dreamsim_guidance.sensitivity.factors import FactorProfile
from dreamsim_guidance.sensitivity.maps import PairMap, overlay
from dreamsim_guidance.sensitivity.masking import MaskedDecisions
from dreamsim_guidance.sensitivity.robustness import Robustness
from dreamsim_guidance.types import Image

__all__ = ["Sensitivity"]


@dataclass(frozen=True)
class Sensitivity:
    """What several metrics attend to. Each part is empty if it was not asked for.

    metrics: the names, in order. settings: of the analysis.
    facts: sentences that say which pictures, masks and tables were used.
    factors, masks, features, robustness: results by metric.
    maps: maps of `pair` by metric; `pictures` are the two as they were compared.
    failed: by metric, the part in which it could not run, and why.
    """

    metrics: tuple[str, ...]
    settings: dict[str, Any]
    facts: list[str] = field(default_factory=list)
    factors: dict[str, FactorProfile] = field(default_factory=dict)
    masks: dict[str, MaskedDecisions] = field(default_factory=dict)
    features: dict[str, dict[str, FeatureCorrelation]] = field(default_factory=dict)
    robustness: dict[str, Robustness] = field(default_factory=dict)
    maps: dict[str, list[PairMap]] = field(default_factory=dict)
    pictures: tuple[Image, Image] | None = None
    failed: dict[str, dict[str, str]] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Sentences about metrics that have no scale for relative distances."""
        profiles: list[tuple[str, FactorProfile | Robustness, float]] = [
            *((name, p, next(iter(p.share.values())).value) for name, p in self.factors.items()),
            *((name, r, r.shift_variance.value) for name, r in self.robustness.items()),
        ]
        without_scale = {name: profile for name, profile, value in profiles if math.isnan(value)}
        return [
            f"{name} does not tell unrelated pictures from equal ones (mean distance {p.unrelated.value:.4g} against "
            f"{p.identical.value:.4g}), so it has no scale for relative distances and shares; a distance must grow with the "
            "difference"
            for name, p in without_scale.items()
        ]

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain data for JSON; maps as the names of their files."""
        results = {name: getattr(self, name) for name in ("factors", "masks", "features", "robustness")}
        return {
            "metrics": list(self.metrics),
            "settings": plain(self.settings),
            "facts": self.facts,
            "notes": self.notes(),
            **{part: {m: _plain(result) for m, result in results[part].items()} for part in results},
            "maps": {
                metric: [
                    {"map": m.name, **({"unavailable": m.unavailable} if m.unavailable else {"file": file})}
                    for m, file in zip(maps, _files(place, maps), strict=True)
                ]
                for place, (metric, maps) in enumerate(self.maps.items())
            },
            "failed": self.failed,
        }

    def overlays(self) -> dict[str, bytes]:
        """The pictures of all maps as PNG, by the names of their files."""
        if self.pictures is None:
            return {}
        return {
            file: overlay(self.pictures, m)
            for place, maps in enumerate(self.maps.values())
            for m, file in zip(maps, _files(place, maps), strict=True)
            if not m.unavailable
        }

    def write(self, folder: Path) -> Path:
        """Write sensitivity.html, sensitivity.json and the maps' PNG files into the folder; return the page.

        Each file is written whole or not at all, the page last. Maps of an earlier analysis are removed.
        """
        from dreamsim_guidance.sensitivity.page import sensitivity_page

        overlays = self.overlays()
        for name, png in overlays.items():
            with writing(folder / name) as temporary:
                temporary.write_bytes(png)
        for file in folder.glob("map_[0-9]*_[0-9][0-9].png"):
            if file.name not in overlays:
                file.unlink()
        write_json(folder / "sensitivity.json", self.numbers())
        page = folder / "sensitivity.html"
        write_text(page, sensitivity_page(self, overlays))
        return page


def _files(place: int, maps: list[PairMap]) -> list[str]:
    return [f"map_{place}_{i:02d}.png" for i in range(len(maps))]


def _plain(result: Any) -> Any:
    if isinstance(result, dict):
        return {name: _plain(value) for name, value in result.items()}
    return plain(asdict(result))
