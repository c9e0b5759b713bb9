"""Samples of the studies of guidance, kept cell by cell, so that an interrupted study goes on; and what is measured on them.

A cell is one condition (a method, a strength) and one reference: n images with the guide's distance and its judges'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamsim_guidance.comparisons.guided_judges import Judge
from dreamsim_guidance.comparisons.guided_sampling import Sampler
from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.guidance import Method
from dreamsim_guidance.types import Embedding, Image

__all__ = ["Cell", "cell", "diversity", "held_out_scenes", "joined", "markdown"]


@dataclass(frozen=True)
class Cell:
    """Images `(n, 3, h, w)` in [0, 1] as 8 bits keep them, their distances `(n,)` by name, and how long they took."""

    images: Image
    distances: dict[str, Tensor]
    seconds: float


def cell(
    file: Path,
    sampler: Sampler,
    seeds: Sequence[int],
    loss: Callable[[Tensor], Tensor],
    method: Method | None,
    judges: Mapping[str, Judge],
    batch: int,
) -> Cell:
    """The cell in `file`, sampled if it is not there."""
    if not file.is_file():
        parts, told, began = [], [], time.perf_counter()
        for first in range(0, len(seeds), batch):
            label = f"{file.parent.name} {file.stem}"
            images, log = sampler.sample(seeds[first : first + batch], loss, method, label, judges=judges)
            parts.append(images)
            told.append(log.final)
        content = {
            name: torch.tensor([value for final in told for value in final[name]]) for name in ("distance", *judges)
        }
        content["images"] = (torch.cat(parts) * 255).round().byte()
        content["seconds"] = torch.tensor(time.perf_counter() - began)
        with writing(file) as temporary:
            write_tensors(content, temporary)
    content = load_file(file)
    images, seconds = content.pop("images").float() / 255, float(content.pop("seconds"))
    return Cell(images, {name: content[name] for name in ("distance", *judges)}, seconds)


def joined(cells: Sequence[Cell]) -> Cell:
    """The cells of several references as one."""
    names = cells[0].distances
    distances = {name: torch.cat([one.distances[name] for one in cells]) for name in names}
    return Cell(torch.cat([one.images for one in cells]), distances, sum(one.seconds for one in cells))


def diversity(features: Embedding) -> float:
    """Mean distance (half the squared chord, 1 - cosine) of all pairs of `(n, d)` features, n > 1; 0 if all are alike."""
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    n = len(directions)
    # the mean over all n^2 pairs is 1 - |mean|^2, and the n pairs of an image with itself count nothing
    return float(n / (n - 1) * (1 - directions.mean(0).square().sum()).clamp_min(0)) if n > 1 else 0.0


def held_out_scenes(count: int, size: int, first: int = 0) -> tuple[list[Scene], Image]:
    """Scenes of the split "test", which no pocket model was trained on, and their pictures."""
    scenes = [pocket_scene(number, "test") for number in range(first, first + count)]
    return scenes, torch.cat([draw(scene, size) for scene in scenes])


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A table of rows with the same keys."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
