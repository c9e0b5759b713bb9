"""Samples of a comparison, stored cell by cell so that an interrupted run continues, and what is measured on them.

A cell is one condition (a method, a strength) with one reference: n images, their distances by the guide and by the judges.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamsim_guidance.comparisons.guided_judges import JudgeFunction
from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.generation.sampling import Sampler
from dreamsim_guidance.guidance import Method
from dreamsim_guidance.types import Embedding, Image

__all__ = ["GuidedCell", "diversity", "guided_cell", "held_out_scenes", "joined", "write_table"]


@dataclass(frozen=True)
class GuidedCell:
    """The samples of one condition and one reference.

    images: `(n, 3, h, w)` in [0, 1], rounded to 8 bits.
    distances: `(n,)` by name; "distance" is the guide's, the others are the judges'.
    seconds: time of sampling all n images.
    """

    images: Image
    distances: dict[str, Tensor]
    seconds: float


def guided_cell(
    file: Path,
    sampler: Sampler,
    seeds: Sequence[int],
    loss: Callable[[Tensor], Tensor],
    method: Method | None,
    judges: Mapping[str, JudgeFunction],
    batch: int,
) -> GuidedCell:
    """Read a cell from `file`, after sampling and writing it there if the file does not exist.

    file: a safetensors file; missing folders are created.
    seeds: one for each image.
    loss: the guide's distance, from images `(b, 3, h, w)` to `(b,)`.
    method: how the gradient is applied; None samples without guidance.
    judges: further distances, by name.
    batch: images that are sampled at once.
    """
    if not file.is_file():
        batches, distances, start = [], [], time.perf_counter()
        for first in range(0, len(seeds), batch):
            label = f"{file.parent.name} {file.stem}"
            images, log = sampler.sample(seeds[first : first + batch], loss, method, label, judges=judges)
            batches.append(images)
            distances.append(log.final)
        content = {
            name: torch.tensor([value for final in distances for value in final[name]])
            for name in ("distance", *judges)
        }
        content["images"] = (torch.cat(batches) * 255).round().byte()
        content["seconds"] = torch.tensor(time.perf_counter() - start)
        with writing(file) as temporary:
            write_tensors(content, temporary)
    content = load_file(file)
    images, seconds = content.pop("images").float() / 255, float(content.pop("seconds"))
    return GuidedCell(images, {name: content[name] for name in ("distance", *judges)}, seconds)


def joined(cells: Sequence[GuidedCell]) -> GuidedCell:
    """The cells of several references as one; `seconds` is their sum."""
    distances = {name: torch.cat([cell.distances[name] for cell in cells]) for name in cells[0].distances}
    return GuidedCell(torch.cat([cell.images for cell in cells]), distances, sum(cell.seconds for cell in cells))


def diversity(features: Embedding) -> float:
    """Mean distance (half the squared chord, 1 - cosine) over all pairs of `(n, d)` features.

    It lies in [0, 2]: 0 if all features have one direction, and for a single feature.
    """
    directions = torch.nn.functional.normalize(features.double(), dim=1)
    n = len(directions)
    # the mean over all n^2 pairs is 1 - |mean|^2, and the n pairs of an image with itself have distance 0
    return float(n / (n - 1) * (1 - directions.mean(0).square().sum()).clamp_min(0)) if n > 1 else 0.0


def held_out_scenes(count: int, size: int, first: int = 0) -> tuple[list[Scene], Image]:
    """Scenes of the split "test", which no pocket model was trained on, and their pictures `(count, 3, size, size)`.

    first: number of the first scene in the split.
    """
    scenes = [pocket_scene(number, "test") for number in range(first, first + count)]
    return scenes, torch.cat([draw(scene, size) for scene in scenes])


def write_table(file: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    """Write rows that have the same keys as a Markdown table, numbers with three digits after the point."""
    with writing(file) as temporary:
        table = markdown_table(list(rows[0]), [list(row.values()) for row in rows], digits=3)
        temporary.write_text(f"{table}\n", encoding="utf-8")
