"""The work of a comparison of methods: sample every row, measure it, and write the table and the picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PILImage
from torch import Tensor

from dreamsim_guidance.comparisons.guided_cells import (
    GuidedCell,
    diversity,
    guided_cell,
    held_out_scenes,
    joined,
    write_table,
)
from dreamsim_guidance.comparisons.guided_judges import judges
from dreamsim_guidance.comparisons.method_comparison import GuideMethods
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge, load_judge
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import Sampler, method_of
from dreamsim_guidance.guidance import Method
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.processes import default_device

__all__ = ["compare_methods", "conditions"]

log = logging.getLogger(__name__)


def compare_methods(config: GuideMethods, folder: Path) -> dict[str, Any]:
    """Carry out `GuideMethods.run`: sample what `folder` does not hold yet, and write table.md and methods.png there."""
    device = config.device or default_device()
    rows_to_sample = conditions(config)  # first, so that a mistake in the methods is reported before anything is loaded
    metric, judge = DreamSim(config.metric, device=device), load_judge()
    pipe = named_models.load(named_models.find(config.model), device)
    size = pipe.unet.config.sample_size
    scenes, references = held_out_scenes(config.references, size, config.first)
    _, other_scenes = held_out_scenes(config.references * config.n, size, config.first + 100_000)
    targets = [metric.target(reference.to(device)) for reference in references.split(1)]
    judged = [judges([reference.to(device)], "mean", None, (), False, device) for reference in references.split(1)]
    rows: list[dict[str, Any]] = []
    unguided_frechet: dict[float | None, float] = {}
    for name, method, eta in rows_to_sample:
        sampler = Sampler(pipe, steps=config.steps, eta=eta)
        cells = [
            guided_cell(
                folder / "cells" / _file_name(name) / f"{number:03}.safetensors",
                sampler,
                range(config.seed + number * config.n, config.seed + (number + 1) * config.n),
                targets[number],
                method,
                judged[number],
                config.batch,
            )
            for number in range(config.references)
        ]
        row: dict[str, Any] = {"method": name, **_measure(cells, scenes, judge, judge.features(other_scenes))}
        row["frechet / unguided"] = row["frechet"] / unguided_frechet.setdefault(eta, row["frechet"])
        rows.append(row)
        for number, cell in enumerate(cells):
            save_image(cell.images[0], folder / "samples" / _file_name(name) / f"{number:03}.png")
        log.info("%s: %s", name, {key: round(value, 4) for key, value in row.items() if key != "method"})
    for number, reference in enumerate(references):
        save_image(reference, folder / "samples" / "reference" / f"{number:03}.png")
    write_table(folder / "table.md", rows)
    with writing(folder / "methods.png") as temporary:
        _sheet(folder / "samples", ["reference", *(row["method"] for row in rows)]).save(temporary)
    return {"rows": rows, "factors of the references": float(factor_agreement(references, scenes, judge).mean())}


def conditions(config: GuideMethods) -> list[tuple[str, Method | None, float | None]]:
    """Name, method and eta (DDIM's share of noise) of every row.

    Each sampler has a row without guidance too, whose method is None. Raises ValueError for an unknown method or option.
    """
    rows: list[tuple[str, Method | None, float | None]] = [("unguided", None, None)]
    for text in config.methods:
        name, *rest = text.split(":")
        try:
            strength = float(rest.pop(0)) if rest and rest[0] and "=" not in rest[0] else None
        except ValueError as error:
            raise ValueError(f"'{text}' is not name:strength:option=value:...: {error}.") from error
        method = method_of(name, strength, rest)
        eta = 1.0 if method.needs_noise else None
        if eta is not None and all(row_eta != eta for _, _, row_eta in rows):
            rows.append(("unguided, eta 1", None, eta))
        rows.append((text, method, eta))
    return rows


def _measure(
    cells: Sequence[GuidedCell], scenes: Sequence[Scene], judge: SceneJudge, features_of_scenes: Tensor
) -> dict[str, float]:
    """The means over all samples of a row; `features_of_scenes` are those that the Frechet distance compares with."""
    whole = joined(cells)
    scene_of_image = [scene for scene, cell in zip(scenes, cells, strict=True) for _ in cell.images]
    return {
        **{name: float(values.mean()) for name, values in whole.distances.items()},
        "factors": float(factor_agreement(whole.images, scene_of_image, judge).mean()),
        "frechet": frechet_distance(judge.features(whole.images), features_of_scenes),
        "diversity": sum(diversity(judge.features(cell.images)) for cell in cells) / len(cells),
        "seconds": whole.seconds / len(whole.images),
    }


def _sheet(samples: Path, names: Sequence[str]) -> PILImage.Image:
    """The first sample of every method for every reference."""
    return contact_sheet({name: sorted((samples / _file_name(name)).iterdir()) for name in names}, {})


def _file_name(row: str) -> str:
    """A row's name as a folder's; Windows has no colons in names of files."""
    return row.replace(":", " ")
