"""Retrieval tasks whose answers are known because their pictures are made: scenes with one factor changed, crops.

Pictures are written as PNG files into a folder. A scene's file is named by everything that decides its picture, and is drawn
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.data.scenes.scene import FACTORS, Scene
from dreamsim_guidance.data.scenes.variations import vary
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.retrieval.evaluation.task import RetrievalTask
from dreamsim_guidance.types import Image

__all__ = ["crop_task", "scene_tasks"]

_SIDE = 128
_SHARE = 0.75
_CROPPED = 256


def scene_tasks(
    folder: Path, scenes: int = 100, amount: float = 0.5, factors: Sequence[str] = FACTORS, seed: int = 0
) -> list[RetrievalTask]:
    """Return one task for each factor: find a pocket scene by its picture after this factor has changed.

    The gallery holds `scenes` different scenes of the split "test", the queries are the same scenes with the factor changed by
    `vary`, which also draws new jitter and grain. The task "scene" changes nothing but those. One picture is relevant to a
    query.

    folder: where the pictures are written, 128 x 128.
    scenes: at least 2.
    amount: how far a continuous factor moves, in (0, 1].
    factors: names of `FACTORS`.
    seed: of the variations.

    Raises ValueError for unknown factors, an amount outside (0, 1], and fewer than two scenes.
    """
    if scenes < 2:
        raise ValueError(f"a gallery needs at least 2 scenes, got {scenes}.")
    originals = [pocket_scene(number, "test") for number in range(scenes)]
    gallery = [folder / f"scene_{number:05d}.png" for number in range(scenes)]
    for scene, file in zip(originals, gallery, strict=True):
        _draw(scene, file)
    tasks = []
    for factor in ("", *factors):
        queries = [folder / f"{factor or 'scene'}_{amount:g}_{seed}" / file.name for file in gallery]
        for number, (scene, file) in enumerate(zip(originals, queries, strict=True)):
            generator = torch.Generator().manual_seed(1_000_003 * seed + number)
            _draw(vary(scene, factor or (), amount, generator), file)
        name = f"scene, {factor.replace('_', ' ')} changed" if factor else "scene"
        tasks.append(_paired(name, queries, gallery, "the same scene before the change"))
    return tasks


def crop_task(folder: Path, pictures: Sequence[Path], name: str = "crops") -> RetrievalTask:
    """Return the task of finding the upper left part of a photograph by its mirrored lower right part.

    Both parts have three quarters of the height and width, so that they share half of each; they are resized to 256 x 256.

    folder: where the parts are written.
    pictures: at least two files.

    Raises ValueError for fewer than two pictures, and for one that cannot be read.
    """
    if len(pictures) < 2:
        raise ValueError(f"a gallery needs at least 2 pictures, got {len(pictures)}.")
    places = {kind: [folder / f"{i:05d}_{kind}.png" for i in range(len(pictures))] for kind in ("first", "second")}
    for i, picture in enumerate(pictures):
        image = load_image(picture)
        height, width = (max(1, int(_SHARE * side)) for side in image.shape[-2:])
        _save(resize(image[..., :height, :width], (_CROPPED, _CROPPED)), places["first"][i])
        _save(resize(image[..., -height:, -width:], (_CROPPED, _CROPPED)).flip(-1), places["second"][i])
    return _paired(name, places["second"], places["first"], "the other part of the same photograph")


def _paired(name: str, queries: Sequence[Path], gallery: Sequence[Path], rule: str) -> RetrievalTask:
    labels = tuple(frozenset({str(i)}) for i in range(len(queries)))
    return RetrievalTask(
        name,
        (*gallery, *queries),
        labels * 2,
        queries=tuple(range(len(gallery), 2 * len(gallery))),
        gallery=tuple(range(len(gallery))),
        groups=tuple(str(i) for i in range(len(queries))) * 2,
        rule=rule,
    )


def _draw(scene: Scene, file: Path) -> None:
    if not file.is_file():
        _save(draw(scene, _SIDE), file)


def _save(image: Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_image(image.clamp(0, 1), file)
