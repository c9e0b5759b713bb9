"""The settings of an analysis: its parts, and the pictures on which metrics are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.sensitivity.masking import FILLS, Fill
from dreamsim_guidance.sensitivity.saliency import Saliency
from dreamsim_guidance.sensitivity.summaries import Bootstrap

__all__ = ["PARTS", "Analysis"]

PARTS = ("factors", "masks", "features", "robustness", "maps")


@dataclass(frozen=True)
class Analysis:
    """What is analysed, and on which pictures.

    parts: of `PARTS`; by default all.
    data: triplets of pictures for masks and features, and pictures for robustness: the folder or csv file of a set of judgments
        that `evaluate` reads, or `Judgments`; None, the default, draws scenes.
    kind, split: of the set, as for `evaluate`.
    masks: folder with the foreground of each picture, see `companions.companion_files`; without it, `saliency` finds it.
    saliency: from a picture `(1, 3, h, w)` in [0, 1] to `(h, w)` in [0, 1]; above 1/2 is foreground. By default the exact
        masks of drawn scenes, and `saliency.border_contrast` for other pictures.
    fill: what replaces the part that is masked: "grey" (the default), "mean" or "blur", see `masking.py`.
    depth: folder with the depth of each picture as a grey picture. categories: csv file with the columns path and category.
    pair: two picture files for the maps; by default a reference and its first candidate.
    scenes: drawn for factors, at least 4, by default 24.
    triplets: for masks and features, at least 10, by default 200; drawn from the set with the seed if it has more.
    pictures: for robustness, at least 4, by default 16.
    size: side of drawn scenes and of distorted windows in pixels, at least 64, by default 128.
    resamples, seed, level: of the intervals.

    Raises ValueError for values that do not go together.
    """

    parts: tuple[str, ...] = PARTS
    data: Path | Judgments | None = None
    kind: str | None = None
    split: str | None = None
    masks: Path | None = None
    saliency: Saliency | None = None
    fill: Fill = "grey"
    depth: Path | None = None
    categories: Path | None = None
    pair: tuple[Path, Path] | None = None
    scenes: int = 24
    triplets: int = 200
    pictures: int = 16
    size: int = 128
    resamples: int = 2000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"unknown part '{unknown[0]}'; known: {', '.join(PARTS)}.")
        if not self.parts:
            raise ValueError(f"at least one part is needed, got none; known: {', '.join(PARTS)}.")
        if self.fill not in FILLS:
            raise ValueError(f"unknown fill '{self.fill}'; known: {', '.join(FILLS)}.")
        for name, least in (("scenes", 4), ("triplets", 10), ("pictures", 4), ("size", 64), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {self.level}.")
        if self.data is None:
            for name in ("kind", "split", "masks", "depth", "categories"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} goes with data: drawn scenes have their own; give data, or leave it out.")
        if self.masks is not None and self.saliency is not None:
            raise ValueError("masks and saliency both say what the foreground is; give one of them.")

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.resamples, self.seed, self.level)
