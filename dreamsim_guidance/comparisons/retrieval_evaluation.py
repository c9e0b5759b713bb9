"""Retrieval with known answers: which metric finds the right pictures, on scenes, photographs and labelled sets.

    report.md          measures of every metric on every task with intervals, and paired differences to the first metric
    retrieval.json     the same as numbers
    pictures/          scenes and crops that were made for the tasks

The work is done in `retrieval_evaluation_run.py`, the measures are defined in `dreamsim_guidance.retrieval.evaluation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RetrievalEvaluation"]


@dataclass(frozen=True)
class RetrievalEvaluation:
    """The settings of an evaluation of retrieval. Every source that is given becomes one task or several."""

    metrics: tuple[str, ...] = ()
    """photographs, pocket, ensemble, mse, ssim, a model file, file.py:function, ...; differences are to the first. By default
    photographs where the extra is installed, then pocket and mse."""
    folder: Path | None = None
    """A folder with a folder of pictures for each class."""
    table: Path | None = None
    """A csv file with the columns path, label and, optionally, split."""
    split: str | None = None
    """Of the table; by default all rows."""
    materials: Path | None = None
    """The set of renderings of materials, with the folders ennis and stpeters."""
    rocks: Path | None = None
    """The set of photographs of rocks, with the folder img."""
    shoes: Path | None = None
    """The set of photographs of shoes, with the folder img."""
    coco: Path | None = None
    """MS-COCO, with the folders annotations and, for the split val2017, val2017."""
    coco_split: str = "val2017"
    coco_pictures: int | None = None
    """Draw so many pictures of the split with the seed; by default all."""
    imagenet_r: Path | None = None
    """ImageNet-R, with a folder for each WordNet id."""
    crops_of: Path | None = None
    """Make two crops of each picture in this folder and the folders below."""
    crops: bool | None = None
    """Make two crops of each photograph that scikit-image installs; by default if no other source is given."""
    scenes: int | None = None
    """Draw so many scenes, and each with every factor changed; by default 100 if no other source is given, else none."""
    amount: float = 0.5
    """How far a continuous factor of a scene moves, in (0, 1]."""
    cutoffs: tuple[int, ...] = (1, 5, 10)
    """The k of recall and hits among the first k."""
    queries: int | None = None
    """Evaluate at most so many queries of each task, drawn with the seed, in the whole gallery; by default all."""
    resamples: int = 2000
    """Of the bootstrap."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    cache: bool = True
    """Keep embeddings in the user's cache folder, and use those that are there."""
    seed: int = 0
    """Of the bootstrap, of sampled queries and pictures, and of the scenes' variations."""

    def __post_init__(self) -> None:
        for name, least in (("queries", 1), ("coco_pictures", 2), ("resamples", 100)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if self.scenes is not None and (self.scenes < 0 or self.scenes == 1):
            raise ValueError(f"scenes must be 0 or at least 2, got {self.scenes}.")
        if not 0 < self.amount <= 1:
            raise ValueError(f"amount must lie in (0, 1], got {self.amount}.")
        if not self.cutoffs or min(self.cutoffs) < 1:
            raise ValueError(f"cutoffs must be at least 1, got {self.cutoffs}.")
        if self.split is not None and self.table is None:
            raise ValueError("split is a split of a table; give table, or leave split out.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the report and return its numbers: of every task and metric, each measure with its interval."""
        from dreamsim_guidance.comparisons.retrieval_evaluation_run import (
            run,  # here, so that recipes need no torch
        )

        return run(self, folder)
