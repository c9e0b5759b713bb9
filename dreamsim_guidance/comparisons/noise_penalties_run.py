"""The work of comparing penalties on optimised noise: optimise, judge by what took no part, and write table and sheet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamsim_guidance.comparisons.guided_cells import held_out_scenes, write_table
from dreamsim_guidance.comparisons.noise_penalties import NoisePenalties
from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge, load_judge
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap, paired_difference
from dreamsim_guidance.files.atomic import write_json, write_tensors, writing
from dreamsim_guidance.inversion import Noise, invert
from dreamsim_guidance.losses import SSIM, DenoisingError, Loss
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.held_out import without_last_branch
from dreamsim_guidance.pocket import load_pocket
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.processes import default_device

__all__ = ["compare"]

log = logging.getLogger(__name__)

SIZE = 64
JUDGED_LEVELS = (0.2, 0.7)
"""Noise levels of the denoising error that judges."""


def compare(config: NoisePenalties, folder: Path) -> dict[str, Any]:
    """Carry out `NoisePenalties.run`."""
    task = _Task.of(config)
    cells = {
        penalty: [_cell(task, config, penalty, seed, folder) for seed in range(config.seeds)]
        for penalty in config.penalties
    }
    starts = [
        {**cell, "images": cell["start"], "length": torch.ones(config.pairs)} for cell in cells[config.penalties[0]]
    ]
    values = {name: _judged(task, config, runs) for name, runs in {"start": starts, **cells}.items()}
    rows = [_row(name, runs, values[name], task) for name, runs in {"start": starts, **cells}.items()]
    pair = list(range(config.pairs)) * config.seeds
    differences = {
        f"{a} - {b}": {
            measure: _numbers(paired_difference(values[a][measure], values[b][measure], pair)) for measure in values[a]
        }
        for a, b in (("noise", "none"), ("image", "none"), ("both", "noise"), ("both", "none"))
        if a in values and b in values
    }
    intervals = {
        name: {measure: _numbers(cluster_bootstrap(column, pair)) for measure, column in columns.items()}
        for name, columns in values.items()
    }
    write_table(folder / "table.md", rows)
    write_json(folder / "table.json", {"rows": rows, "intervals": intervals, "differences": differences})
    _sheet(folder, {"start": starts, **cells}, task)
    return {"rows": rows, "differences": differences}


@dataclass(frozen=True)
class _Task:
    """Prompts, references and judges. `reward` is optimised and `last`, of another tower, judges, towards all references."""

    pipe: Any
    prompts: list[str]
    scenes: list[Scene]
    references: Tensor
    reward: Loss
    last: Loss
    judge: SceneJudge
    penalty: Loss
    error: Loss
    pictures: Tensor

    @classmethod
    def of(cls, config: NoisePenalties) -> _Task:
        device = config.device or default_device()
        pipe: Any = load_pocket("latents").to(device)
        scenes, _ = held_out_scenes(config.pairs, 8, config.first)
        _, references = held_out_scenes(config.pairs, SIZE, config.first + config.pairs)
        _, pictures = held_out_scenes(config.pictures, SIZE, config.first + 2 * config.pairs)
        generator = torch.Generator().manual_seed(config.seed)
        prompts = [caption(scene, generator, keep=1.0) for scene in scenes]
        optimised, last = without_last_branch(DreamSim("pocket", device=device))
        assert last is not None
        error = {"pipe": pipe, "prompt": prompts, "num_inference_steps": 50, "guidance_scale": 1.0}
        references = references.to(device)
        return cls(
            pipe,
            prompts,
            scenes,
            references,
            optimised.target(references),
            last.target(references),
            load_judge().to(device),
            config.image * DenoisingError(levels=config.levels, seed=config.seed, **error),
            DenoisingError(levels=JUDGED_LEVELS, seed=config.seed + 1, **error),
            pictures.to(device),
        )


def _cell(task: _Task, config: NoisePenalties, penalty: str, seed: int, folder: Path) -> dict[str, Tensor]:
    """Optimised images of all pairs, `(pairs, 3, h, w)`, those of the start, the noise's length, and the seconds."""
    file = folder / "cells" / penalty / f"{seed:03}.safetensors"
    if not file.is_file():
        noise = Noise(
            task.pipe,
            norm=config.norm if penalty in ("noise", "both") else 0.0,
            seed=config.seed + seed,
            prompt=task.prompts,
            num_inference_steps=config.sampling_steps,
            guidance_scale=1.0,
        )
        loss = task.reward + task.penalty if penalty in ("image", "both") else task.reward
        latents = noise.sample(config.pairs, torch.Generator().manual_seed(config.seed + seed))
        with torch.no_grad():
            start = noise(latents).clamp(0, 1)
        result = invert(
            loss, noise, latents, steps=config.steps, lr=config.lr, progress=f"penalty {penalty}, seed {seed}"
        )
        leaf = result.leaves["leaf"].flatten(1)
        content = {
            "images": result.images.clamp(0, 1),
            "start": start,
            "length": leaf.norm(dim=1) / leaf.shape[1] ** 0.5,
            "seconds": torch.tensor(result.seconds),
        }
        with writing(file) as temporary:
            write_tensors({name: tensor.cpu().contiguous() for name, tensor in content.items()}, temporary)
    return load_file(file, device=str(task.references.device))


@torch.no_grad()
def _judged(task: _Task, config: NoisePenalties, runs: list[dict[str, Tensor]]) -> dict[str, list[float]]:
    """Every measure of each image, seed by seed."""
    ssim = SSIM(task.references)
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "distance": task.reward,
        "last tower": task.last,
        "1 - SSIM": ssim,
        "reference factors": lambda images: factor_agreement(images, task.references, task.judge),
        "prompt factors": lambda images: factor_agreement(images, task.scenes, task.judge),
        "denoising error": task.error,
    }
    values = {name: [float(v) for run in runs for v in measure(run["images"])] for name, measure in measures.items()}
    return values | {"length": [float(v) for run in runs for v in run["length"]]}


def _row(
    name: str, runs: list[dict[str, Tensor]], values: dict[str, list[float]], task: _Task
) -> dict[str, str | float]:
    images = torch.cat([run["images"] for run in runs])
    with torch.no_grad():
        frechet = frechet_distance(task.judge.features(images), task.judge.features(task.pictures))
    means = {measure: sum(column) / len(column) for measure, column in values.items()}
    seconds = sum(float(run["seconds"]) for run in runs) / len(images) if name != "start" else 0.0
    return {"penalty": name, **means, "frechet": frechet, "seconds": seconds}


def _numbers(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]


def _sheet(folder: Path, cells: dict[str, list[dict[str, Tensor]]], task: _Task) -> None:
    """The first seed's images of every penalty, below the references."""
    pictures = {"reference": task.references, **{name: runs[0]["images"] for name, runs in cells.items()}}
    for name, images in pictures.items():
        for number, image in enumerate(images):
            save_image(image, folder / "samples" / name / f"{number:03}.png")
    files = {name: sorted((folder / "samples" / name).iterdir()) for name in pictures}
    with writing(folder / "samples.png") as temporary:
        contact_sheet(files, {}).save(temporary)
