"""The work of comparing guides at equal success: make the pictures, measure them, and read the curves at given drops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from dreamsim_guidance.comparisons.guided_cells import held_out_scenes, write_table
from dreamsim_guidance.comparisons.robust_guides import RobustGuides
from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import Sampler
from dreamsim_guidance.guidance.judges import rms
from dreamsim_guidance.guidance.methods import MPGD
from dreamsim_guidance.inversion import Pixels, invert
from dreamsim_guidance.losses import Augmented
from dreamsim_guidance.metric.distance import half_chord, unit
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import resize, save_image
from dreamsim_guidance.processes import default_device
from dreamsim_guidance.types import AnyImage

__all__ = ["at_drop", "compare_guides"]

log = logging.getLogger(__name__)

_MEASURES = ("guide", "judge", "rms", "factors")


def compare_guides(config: RobustGuides, folder: Path) -> dict[str, Any]:
    """Carry out `RobustGuides.run`."""
    device = config.device or default_device()
    scenes, pictures = held_out_scenes(config.references, config.size)
    references = pictures.repeat_interleave(config.n, 0)
    judge = load_judge()
    real = judge.features(held_out_scenes(256, config.size, 10_000)[1])
    wanted = judge.features(references)
    runs = [(name, name, 1) for name in config.guides]
    if config.views > 1:
        runs.insert(1, (f"{config.guides[0]}, views={config.views}", config.guides[0], config.views))
    curves: dict[str, NDArray[np.float64]] = {}
    frechet: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for name, guide, views in runs:
        metric = DreamSim(guide, device=device)
        images, seconds[name] = _images(config, folder / "cells", name, metric, references.to(device), views)
        target = metric.target(references.to(device))
        tables, distances = [], []
        for level in images:
            with torch.no_grad():
                features = judge.features(level)
                columns = (
                    target(level.to(device)).cpu(),
                    half_chord(unit(features), unit(wanted)),
                    rms(level, resize(references, (level.shape[-2], level.shape[-1])).clamp(0, 1)),
                    factor_agreement(level, [scene for scene in scenes for _ in range(config.n)], judge),
                )
            table = torch.stack([column.double() for column in columns])
            tables.append(table.unflatten(1, (config.references, config.n)).mean(2).numpy())
            distances.append(frechet_distance(features, real))
        curves[name] = np.stack(tables)  # (levels, measures, references)
        frechet[name] = distances
        log.info("%s: drops of the guide %s", name, np.round(_curves(curves[name])[:, 0], 3).tolist())
        _save_samples(folder, name, images)
    rows, differences = _rows(config, curves, frechet, seconds)
    write_table(folder / "table.md", [{k: _cell(v) for k, v in row.items()} for row in rows])
    summary = {
        name: dict(zip(_MEASURES, _curves(values).T.tolist(), strict=True)) | {"frechet": frechet[name]}
        for name, values in curves.items()
    }
    return {"rows": rows, "differences": differences, "levels": [0.0, *config.levels], "curves": summary}


def at_drop(curve: NDArray[np.float64], values: NDArray[np.float64], drop: float) -> float:
    """Return `values` where `curve` first reaches `drop`, linear between levels; NaN if it never does. Both `(levels,)`."""
    for i in range(1, len(curve)):
        if curve[i - 1] < drop <= curve[i]:
            share = (drop - curve[i - 1]) / (curve[i] - curve[i - 1])
            return float(values[i - 1] + share * (values[i] - values[i - 1]))
    return float("nan")


def _curves(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drops of guide, judge and rms, and the share of factors, `(levels, measures)`, from `(levels, measures, references)`."""
    means = table.mean(2)
    drops = 1 - means[:, :3] / means[:1, :3]
    return np.concatenate([drops, means[:, 3:]], 1)


def _rows(
    config: RobustGuides,
    curves: dict[str, NDArray[np.float64]],
    frechet: dict[str, list[float]],
    seconds: dict[str, float],
) -> tuple[list[dict[str, Any]], dict[str, dict[str, list[float]]]]:
    """One row for each guide and drop, with intervals; and the differences to the first guide, paired by reference."""
    random = np.random.default_rng(config.seed)
    draws = random.integers(0, config.references, (config.resamples, config.references))
    rows: list[dict[str, Any]] = []
    differences: dict[str, dict[str, list[float]]] = {}
    for drop in config.drops:
        first: NDArray[np.float64] | None = None
        for name, table in curves.items():
            whole = _read(table, drop)
            resampled = np.stack([_read(table[:, :, draw], drop) for draw in draws])
            first = resampled if first is None else first
            columns = {
                m: _interval(whole[i], resampled[:, i]) for i, m in enumerate(("judge", "gap", "rms", "factors"))
            }
            at = at_drop(_curves(table)[:, 0], np.array(frechet[name]), drop)
            level = at_drop(_curves(table)[:, 0], np.array([0.0, *config.levels]), drop)
            rows.append(
                {"drop": drop, "guide": name, **columns, "frechet": at, "level": level, "seconds": seconds[name]}
            )
            if name != next(iter(curves)):
                base = _read(curves[next(iter(curves))], drop)
                differences[f"{name} at {drop:g}"] = {
                    m: _interval(whole[i] - base[i], resampled[:, i] - first[:, i])
                    for i, m in enumerate(("judge", "gap", "rms", "factors"))
                }
    return rows, differences


def _read(table: NDArray[np.float64], drop: float) -> NDArray[np.float64]:
    """Judge's drop, gap, drop of rms, and factors, where the guide's drop is `drop`."""
    curves = _curves(table)
    judge, pixels, factors = (at_drop(curves[:, 0], curves[:, i], drop) for i in (1, 2, 3))
    return np.array([judge, drop - judge, pixels, factors])


def _interval(value: float, resampled: NDArray[np.float64]) -> list[float]:
    """The value and the 95 % percentiles; NaN where fewer than half of the resamples reach the drop."""
    finite = resampled[np.isfinite(resampled)]
    if 2 * len(finite) < len(resampled):
        return [float(value), float("nan"), float("nan")]
    low, high = np.quantile(finite, [0.025, 0.975])
    return [float(value), float(low), float(high)]


def _cell(value: Any) -> str | float:
    if isinstance(value, list):
        return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"
    return cast("str | float", value)


def _images(
    config: RobustGuides, folder: Path, name: str, metric: DreamSim, references: AnyImage, views: int
) -> tuple[list[AnyImage], float]:
    """The images without guidance and at every level, on the CPU, from their files where these exist; and the seconds."""
    make: Callable[..., dict[str, Tensor]] = _sampled if config.through == "diffusion" else _optimised
    file = folder / f"{name.replace(', ', ' ')}.safetensors"
    if not file.is_file():
        start = time.perf_counter()
        content = make(config, name, metric, references, views)
        content["seconds"] = torch.tensor(time.perf_counter() - start)
        with writing(file) as temporary:
            write_tensors(content, temporary)
    content = load_file(file)
    return [content[f"{i}"].float() / 255 for i in range(1 + len(config.levels))], float(content["seconds"])


def _sampled(config: RobustGuides, name: str, metric: DreamSim, references: AnyImage, views: int) -> dict[str, Tensor]:
    sampler = Sampler(named_models.load(named_models.find("pocket-pixels"), str(references.device)), steps=config.steps)
    seeds = range(config.seed, config.seed + len(references))
    images = {}
    for i, level in enumerate((0.0, *config.levels)):
        options = {"views": views} if level else {}
        method = MPGD(strength=level) if level else None
        sample, _ = sampler.sample(seeds, metric.target(references), method, f"{name} {level:g}", **options)
        images[f"{i}"] = _bytes(sample)
    return images


def _optimised(
    config: RobustGuides, name: str, metric: DreamSim, references: AnyImage, views: int
) -> dict[str, Tensor]:
    through = Pixels(config.size, batch=len(references), generator=torch.Generator().manual_seed(config.seed))
    through = through.to(references.device)
    loss = metric.target(references) if views == 1 else Augmented(metric, references, views=8 * views, draw=views)
    wanted = {0: 0, **{int(level): i + 1 for i, level in enumerate(config.levels)}}
    images = {}

    def keep(step: int, current: Tensor, _: Tensor) -> None:
        if step in wanted:
            images[f"{wanted[step]}"] = _bytes(current)

    invert(loss, through, steps=int(config.levels[-1]) + 1, seed=config.seed, callback=keep, progress=name)
    return images


def _bytes(images: AnyImage) -> Tensor:
    return (images.detach().cpu().clamp(0, 1) * 255).round().byte()


def _save_samples(folder: Path, name: str, images: Sequence[AnyImage]) -> None:
    """Write the first image of every level into the folder of the guide."""
    for i, level in enumerate(images):
        save_image(level[0], folder / "samples" / name.replace(", ", " ") / f"{i:02}.png")
