"""Retrieval tasks of MS-COCO in its official layout: `annotations/instances_val2017.json` and `val2017/*.jpg`.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dreamsim_guidance.data.readers.table import inside
from dreamsim_guidance.retrieval.evaluation.task import RetrievalTask

__all__ = ["coco_tasks"]


def coco_tasks(
    root: Path, split: str = "val2017", pictures: int | None = None, seed: int = 0
) -> tuple[RetrievalTask, RetrievalTask]:
    """Return two tasks on the same pictures: relevant are pictures that share a category, or have the same set of categories.

    Every picture with an annotation is a query; pictures without one stay in the gallery, relevant to nothing.

    root: the folder with `annotations` and a folder of pictures for the split.
    split: val2017, train2017, val2014, ...
    pictures: at most so many, drawn at random from the whole split; by default all.

    Labels are the numbers of the categories. Raises FileNotFoundError for a missing annotation file or picture, ValueError for
    a file that is not COCO's, without annotations, with annotations of unknown pictures or categories, or in which a picture
    or a category occurs twice.
    """
    if pictures is not None and pictures < 2:
        raise ValueError(f"pictures must be at least 2, got {pictures}.")
    file = root / "annotations" / f"instances_{split}.json"
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' not found; give the folder of MS-COCO and a split such as val2017.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names, images = _read(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"'{file}' is not an annotation file of MS-COCO ({type(error).__name__}: {error}).") from error
    chosen = sorted(names)
    if pictures is not None and pictures < len(chosen):
        chosen = sorted(np.random.default_rng(seed).choice(chosen, pictures, replace=False).tolist())
    files = tuple(root / split / inside(f"'{file}', image {key}", names[key]) for key in chosen)
    if missing := [path for path in files if not path.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} pictures of '{file}' are missing, first '{missing[0]}'."
        )
    labels = [frozenset(map(str, images.get(key, ()))) for key in chosen]
    groups = tuple(" + ".join(sorted(each)) for each in labels)
    together = [frozenset({group}) if group else frozenset() for group in groups]
    return (
        RetrievalTask(
            f"coco {split}, shared category",
            files,
            tuple(labels),
            groups=groups,
            rule="pictures in which at least one category occurs in both",
        ),
        RetrievalTask(
            f"coco {split}, same categories",
            files,
            tuple(together),
            groups=groups,
            rule="pictures with exactly the same set of categories",
        ),
    )


def _read(content: Any) -> tuple[dict[int, str], dict[int, set[int]]]:
    """File names by image id, and the categories of every image."""
    names = _once("image", [(int(image["id"]), str(image["file_name"])) for image in content["images"]])
    categories = _once("category", [(int(category["id"]), str(category["name"])) for category in content["categories"]])
    if not names or not content["annotations"]:
        raise ValueError(f"it lists {len(names)} images and {len(content['annotations'])} annotations")
    images: dict[int, set[int]] = {}
    for annotation in content["annotations"]:
        image, category = int(annotation["image_id"]), int(annotation["category_id"])
        if image not in names or category not in categories:
            raise ValueError(f"an annotation names image {image} and category {category}, one of which is not listed")
        images.setdefault(image, set()).add(category)
    return names, images


def _once(what: str, rows: list[tuple[int, str]]) -> dict[int, str]:
    """Names by id; ValueError for an id or a name that occurs twice."""
    for values in zip(*rows, strict=True):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"the {what} {twice[0]!r} occurs twice")
    return dict(rows)
