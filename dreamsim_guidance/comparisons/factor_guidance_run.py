"""The work of a comparison of factors: sample every row, read the samples' factors, write the tables and the picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.comparisons.factor_guidance import FactorGuidance
from dreamsim_guidance.comparisons.guided_cells import GuidedCell, guided_cell, held_out_scenes
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.factor_agreement import agreement_by_factor
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge
from dreamsim_guidance.evaluation.statistics.intervals import Interval, cluster_bootstrap, paired_difference
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import Sampler, method_of
from dreamsim_guidance.pocket import load_factor_metric, load_judge
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.processes import default_device

__all__ = ["compare_factors"]

log = logging.getLogger(__name__)

_UNGUIDED = "unguided"


def compare_factors(config: FactorGuidance, folder: Path) -> dict[str, Any]:
    """Carry out `FactorGuidance.run`."""
    device = config.device or default_device()
    method = method_of(config.method, config.strength)
    metric, judge = load_factor_metric(config.adapters).to(device), load_judge()
    for factor in config.factors:
        metric.ensemble.need_adapter(factor)
    if unknown := [name for name in config.columns if name not in judge.readable]:
        raise ValueError(f"the judge cannot read '{unknown[0]}'; it reads: {', '.join(judge.readable)}.")
    pipe = named_models.load(named_models.find("pocket-pixels"), device)
    scenes, references = held_out_scenes(config.references, pipe.unet.config.sample_size, config.first)
    sampler = Sampler(pipe, steps=config.steps)
    rows: dict[str, list[GuidedCell]] = {}
    for row in (_UNGUIDED, *config.factors, "people"):
        guide = "people" if row == _UNGUIDED else row
        rows[row] = [
            guided_cell(
                folder / "cells" / row / f"{number:03}.safetensors",
                sampler,
                range(config.seed + number * config.n, config.seed + (number + 1) * config.n),
                metric.target(references[number : number + 1].to(device), adapters=guide),
                None if row == _UNGUIDED else method,
                {},
                config.n,
            )
            for number in range(config.references)
        ]
        log.info("%s: sampled", row)
    correct = {row: _correct(cells, scenes, config.columns, judge) for row, cells in rows.items()}
    labels = np.repeat(np.arange(config.references), config.n)
    shares = {
        row: {name: cluster_bootstrap(values, labels) for name, values in columns.items()}
        for row, columns in correct.items()
    }
    gains = {
        row: {name: paired_difference(columns[name], correct[_UNGUIDED][name], labels) for name in config.columns}
        for row, columns in correct.items()
        if row != _UNGUIDED
    }
    for row in gains:  # the mean of all factors but the one that is followed
        others = [name for name in config.columns if name != row]
        mean, before = (np.mean([correct[r][name] for name in others], 0) for r in (row, _UNGUIDED))
        gains[row]["mean of the others"] = paired_difference(mean, before, labels)
    _write(folder / "table.md", shares, signed=False)
    _write(folder / "gains.md", gains, signed=True)
    _draw(folder, rows, references)
    return {
        name: {row: {factor: asdict(x) for factor, x in columns.items()} for row, columns in figures.items()}
        for name, figures in (("shares", shares), ("gains", gains))
    }


def _correct(
    cells: Sequence[GuidedCell], scenes: Sequence[Scene], columns: Sequence[str], judge: SceneJudge
) -> dict[str, NDArray[np.float64]]:
    """For each factor, whether each sample of a row shows the reference's: 0 or 1."""
    by_cell = [agreement_by_factor(cell.images, scene, judge) for cell, scene in zip(cells, scenes, strict=True)]
    return {name: np.concatenate([cell[name].double().numpy() for cell in by_cell]) for name in columns}


def _write(file: Path, rows: dict[str, dict[str, Interval]], signed: bool) -> None:
    """Write percentages, the column of the factor that a row follows in bold."""
    names = list(dict.fromkeys(name for columns in rows.values() for name in columns))
    sign = "+" if signed else ""
    table = []
    for row, columns in rows.items():
        cells = [f"{100 * x.value:{sign}.0f} [{100 * x.low:.0f}, {100 * x.high:.0f}]" for x in columns.values()]
        table.append([row, *(f"**{c}**" if name == row else c for name, c in zip(columns, cells, strict=True))])
    with writing(file) as temporary:
        temporary.write_text(f"{markdown_table(['guided by', *names], table)}\n", encoding="utf-8")


def _draw(folder: Path, rows: dict[str, list[GuidedCell]], references: Any) -> None:
    """Write factors.png: the references, and below each the first sample of every row."""
    shown = range(min(len(references), 8))
    files: dict[str, list[Path]] = {"reference": [], **{row: [] for row in rows}}
    for number in shown:
        pictures = {
            "reference": references[number],
            **{row: cells[number].images[0] for row, cells in rows.items()},
        }
        for row, picture in pictures.items():
            files[row].append(folder / "samples" / row / f"{number:03}.png")
            save_image(picture, files[row][-1])
    with writing(folder / "factors.png") as temporary:
        contact_sheet(files, {}, side=96).save(temporary)
