"""The work of an evaluation of retrieval: build the tasks, evaluate the metrics, write the tables."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamsim_guidance.data.photographs import installed_photographs, photograph_file
from dreamsim_guidance.evaluation.metrics.named_metrics import load_metrics
from dreamsim_guidance.files.atomic import plain, write_json, write_text
from dreamsim_guidance.metric.photographs import default_metric
from dreamsim_guidance.processes import is_main
from dreamsim_guidance.retrieval.evaluation import (
    RetrievalTask,
    coco_tasks,
    crop_task,
    evaluate_retrieval,
    imagenet_r_task,
    labelled_folder_task,
    labelled_table_task,
    materials_task,
    retrieval_markdown,
    retrieval_text,
    rocks_task,
    scene_tasks,
    shoes_task,
)
from dreamsim_guidance.retrieval.evaluation.labelled import pictures_below

if TYPE_CHECKING:
    from dreamsim_guidance.comparisons.retrieval_evaluation import RetrievalEvaluation

__all__ = ["run"]

log = logging.getLogger(__name__)

_SCENES = 100


def run(config: RetrievalEvaluation, folder: Path) -> dict[str, Any]:
    """Carry out `RetrievalEvaluation.run`."""
    tasks = [task.sample(config.queries, config.seed) if config.queries else task for task in _tasks(config, folder)]
    names = config.metrics or tuple(dict.fromkeys((default_metric(), "pocket", "mse")))
    metrics = load_metrics(names, config.device, config.cache)
    report = evaluate_retrieval(tasks, metrics, config.cutoffs, config.resamples, config.seed, progress=is_main())
    results: dict[str, Any] = plain(asdict(report))
    if is_main():
        write_text(folder / "report.md", retrieval_markdown(report))
        write_json(folder / "retrieval.json", results)
        log.info("\n%s", retrieval_text(report))
    return results


def _tasks(config: RetrievalEvaluation, folder: Path) -> list[RetrievalTask]:
    tasks = []
    if config.folder is not None:
        tasks.append(labelled_folder_task(config.folder))
    if config.table is not None:
        tasks.append(labelled_table_task(config.table, split=config.split))
    for place, build in (
        (config.materials, materials_task),
        (config.rocks, rocks_task),
        (config.shoes, shoes_task),
        (config.imagenet_r, imagenet_r_task),
    ):
        if place is not None:
            tasks.append(build(place))
    if config.coco is not None:
        tasks += coco_tasks(config.coco, config.coco_split, config.coco_pictures, config.seed)
    if config.crops_of is not None:
        name = f"crops of {config.crops_of.name}"
        tasks.append(crop_task(folder / "pictures" / "crops_of", pictures_below(config.crops_of), name))
    alone = not tasks
    if config.crops or (config.crops is None and alone):
        photographs = [photograph_file(name) for name in installed_photographs()]
        tasks.append(crop_task(folder / "pictures" / "crops", photographs))
    scenes = (_SCENES if alone else 0) if config.scenes is None else config.scenes
    if scenes:
        tasks += scene_tasks(folder / "pictures" / "scenes", scenes, config.amount, seed=config.seed)
    if not tasks:
        raise ValueError("there is nothing to evaluate; give a folder, a table, a set, crops or scenes.")
    return tasks
