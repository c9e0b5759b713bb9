"""Retrieval tasks on sets of pictures that people judged: materials, rocks and shoes.

    materials   renderings of measured materials in two scenes, `ennis/NAME.jpg` and `stpeters/NAME.png`: the other rendering
    rocks       photographs `img/001.jpg` to `img/360.jpg`, twelve of each of 30 subtypes in order: the same subtype
    shoes       photographs `img/0.jpg` to `img/84.jpg`: the same type of shoe

Lagunas et al., A Similarity Measure for Material Appearance, SIGGRAPH 2019; Nosofsky et al., Toward the development of a
feature-space representation for a complex natural category domain, Behavior Research Methods 2018 (rocks). The set of shoes
has no types of its own: `SHOE_TYPES` was written down for this task by looking at the pictures. Shoes that fit none of them are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dreamsim_guidance.retrieval.evaluation.labelled import pictures_below
from dreamsim_guidance.retrieval.evaluation.task import RetrievalTask, by_label

__all__ = ["ROCK_SUBTYPES", "SHOE_TYPES", "materials_task", "rocks_task", "shoes_task"]

ROCK_SUBTYPES = (
    *(
        "andesite",
        "basalt",
        "diorite",
        "gabbro",
        "granite",
        "obsidian",
        "pegmatite",
        "peridotite",
        "pumice",
        "rhyolite",
    ),
    *("amphibolite", "anthracite", "gneiss", "hornfels", "marble", "migmatite", "phyllite", "quartzite", "schist"),
    *("slate", "bituminous coal", "breccia", "chert", "conglomerate", "dolomite", "micrite", "rock gypsum"),
    *("rock salt", "sandstone", "shale"),
)
"""Ten igneous, ten metamorphic and ten sedimentary subtypes, in the order of the numbers of the photographs."""

_TOKENS = 12

SHOE_TYPES: Mapping[str, tuple[int, ...]] = {
    "athletic shoe": (0, 5, 15, 17, 32, 35, 36, 42, 44, 45, 46, 56, 65, 71, 75),
    "casual sneaker": (4, 9, 11, 19, 22, 28, 39, 49, 55, 61, 67),
    "flat": (3, 14, 23, 24, 30, 60, 73, 83),
    "heel": (2, 8, 20, 26, 52, 70, 72, 78, 84),
    "dress shoe": (7, 12, 31, 66, 69, 74, 76),
}
"""Numbers of the photographs of each type."""


def materials_task(folder: Path) -> RetrievalTask:
    """Return the task of finding the rendering of a material in the scene `stpeters` by the one in the scene `ennis`.

    Materials that are not there in both scenes are left out. Raises FileNotFoundError for a missing folder, ValueError for
    fewer than two materials in both.
    """
    scenes = [{path.stem: path for path in pictures_below(folder / scene)} for scene in ("stpeters", "ennis")]
    names = sorted(scenes[0].keys() & scenes[1].keys())
    if len(names) < 2:
        raise ValueError(
            f"'{folder}' has {len(names)} materials rendered in both stpeters and ennis; at least 2 are needed."
        )
    return RetrievalTask(
        "materials",
        tuple(scene[name] for scene in scenes for name in names),
        tuple(frozenset({name}) for name in names) * 2,
        queries=tuple(range(len(names), 2 * len(names))),
        gallery=tuple(range(len(names))),
        groups=tuple(names) * 2,
        rule="the rendering of the same material in another scene and light",
    )


def rocks_task(folder: Path) -> RetrievalTask:
    """Return the task of finding photographs of the same subtype of rock; every photograph is a query.

    Raises FileNotFoundError for a missing folder, ValueError for a picture whose name is not a number from 1 to 360.
    """
    files = pictures_below(folder / "img")
    last = _TOKENS * len(ROCK_SUBTYPES)
    numbers = [_number(path, 1, last) for path in files]
    labels = [ROCK_SUBTYPES[(number - 1) // _TOKENS] for number in numbers]
    return by_label("rocks", files, labels, "photographs of the same subtype of rock")


def shoes_task(folder: Path) -> RetrievalTask:
    """Return the task of finding photographs of the same type of shoe, by `SHOE_TYPES`; each with a type is a query.

    Raises FileNotFoundError for a missing folder, ValueError for a picture whose name is not a number from 0 to 84.
    """
    types = {number: name for name, numbers in SHOE_TYPES.items() for number in numbers}
    labelled = [(path, types.get(_number(path, 0, 84))) for path in pictures_below(folder / "img")]
    files = [path for path, name in labelled if name is not None]
    return by_label(
        "shoes", files, [name for _, name in labelled if name is not None], "photographs of the same type of shoe"
    )


def _number(path: Path, first: int, last: int) -> int:
    if not path.stem.isdecimal() or not first <= int(path.stem) <= last:
        raise ValueError(f"'{path}': the pictures of this set are named by numbers from {first} to {last}.")
    return int(path.stem)
