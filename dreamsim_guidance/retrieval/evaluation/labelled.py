"""Retrieval tasks from labelled pictures: a folder for each class, a table of labels, ImageNet-R.

pictures/cat/1.jpg, pictures/cat/2.jpg, pictures/dog/1.jpg, ...
labels.csv: path,label[,split]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dreamsim_guidance.data.readers.table import inside, read_table
from dreamsim_guidance.files.pictures import SUFFIXES
from dreamsim_guidance.retrieval.evaluation.task import RetrievalTask, by_label

__all__ = ["imagenet_r_task", "labelled_folder_task", "labelled_table_task", "pictures_below"]

_WNID = re.compile(r"n\d{8}")


def labelled_folder_task(folder: Path, name: str | None = None) -> RetrievalTask:
    """Return the task of a folder with one folder of pictures for each class; every picture is a query once.

    Pictures in folders below a class count for that class; hidden files and folders are skipped.

    name: of the task, by default that of the folder.

    Raises FileNotFoundError if there is no such folder, ValueError if it has no folder with a picture.
    """
    classes = _classes(folder)
    if not classes:
        raise ValueError(f"no pictures in folders of '{folder}'; put the pictures of each class into a folder of it.")
    return _of_classes(name or folder.resolve().name, classes, "pictures of the same class")


def imagenet_r_task(folder: Path, name: str = "imagenet-r") -> RetrievalTask:
    """Return the task of ImageNet-R as it is distributed: `imagenet-r/n01443537/*.jpg`, a folder for each WordNet id.

    Hendrycks et al., The Many Faces of Robustness, ICCV 2021: 30,000 renditions (art, cartoons, sketches, ...) of 200
    classes. Every picture is a query; all other pictures of its class are relevant, whatever their rendition.

    Raises FileNotFoundError if there is no such folder, ValueError if it has no folder with a WordNet id as its name.
    """
    classes = {key: files for key, files in _classes(folder).items() if _WNID.fullmatch(key)}
    if not classes:
        raise ValueError(f"'{folder}' is not ImageNet-R: it has no folder of pictures named like n01443537.")
    return _of_classes(name, classes, "pictures of the same ImageNet class")


def labelled_table_task(file: Path, name: str | None = None, split: str | None = None) -> RetrievalTask:
    """Return the task of a table with the columns path, label and, optionally, split.

    Paths are relative to the table's folder. Several labels of a picture are separated by semicolons; two pictures are relevant
    to each other if they share one.

    split: only rows of this split; by default all.

    Raises FileNotFoundError for a missing table or picture; ValueError for missing columns, empty labels, a path that leaves
    the folder or occurs twice, and a split without rows.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"table of labels not found: '{file}'; give a csv file with the columns path and label."
        )
    files: list[Path] = []
    labels: list[frozenset[str]] = []
    splits: set[str] = set()
    for where, row in read_table(file, ("path", "label"), ("split",)):
        splits.add(row["split"])
        if split is not None and row["split"] != split:
            continue
        path = file.parent / inside(where, row["path"])
        names = frozenset(part.strip() for part in row["label"].split(";") if part.strip())
        if not names:
            raise ValueError(f"{where}: the label is empty; leave such lines out.")
        if not path.is_file():
            raise FileNotFoundError(f"{where}: there is no picture '{path}'.")
        files.append(path)
        labels.append(names)
    if not files:
        known = ", ".join(sorted(filter(None, splits))) or "none"
        raise ValueError(f"'{file}' has no rows" + (f" of split '{split}'; its splits: {known}." if split else "."))
    groups = tuple(";".join(sorted(names)) for names in labels)
    return RetrievalTask(
        name or file.stem, tuple(files), tuple(labels), groups=groups, rule="pictures that share a label"
    )


def pictures_below(folder: Path) -> list[Path]:
    """Return the picture files in a folder and the folders below, sorted; hidden files and folders are skipped.

    Raises FileNotFoundError if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder not found: '{folder}'; give a folder of pictures.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _classes(folder: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for path in pictures_below(folder):
        parts = path.relative_to(folder).parts
        if len(parts) > 1:
            classes.setdefault(parts[0], []).append(path)
    return classes


def _of_classes(name: str, classes: dict[str, list[Path]], rule: str) -> RetrievalTask:
    files: Sequence[Path] = [file for each in classes.values() for file in each]
    return by_label(name, files, [label for label, each in classes.items() for _ in each], rule)
