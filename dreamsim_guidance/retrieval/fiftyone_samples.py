"""The pictures of an index as FiftyOne sees them: a file for each, its fields, and its embedding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.retrieval.matrix import nearest_neighbours
from dreamsim_guidance.retrieval.members import files_of
from dreamsim_guidance.retrieval.near_duplicates import near_duplicate_groups

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.index import Index

__all__ = [
    "Exported",
    "PictureSample",
    "brain_key_of",
    "check_brain_key",
    "chunks",
    "field_kinds",
    "field_values",
    "picture_samples",
]

_COMPARED = 20_000
"""Pictures up to which each is compared with every other one."""
_CHUNK = 1000


@dataclass(frozen=True)
class PictureSample:
    """One picture of an index.

    row: in the index. file: the picture file. digest, width, height, size: as in the index. copies: rows with the same content,
    this one included. nearest: distance to the nearest other picture, None where this was not computed. group: number of its
    group of near-duplicates, None for a picture in no group.
    """

    row: int
    file: Path
    digest: str
    width: int
    height: int
    size: int
    copies: int
    nearest: float | None = None
    group: int | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    place: the dataset's name, or the folder. brain_key: of the similarity run. pictures: their number. left_out: paths of the
    pictures that are inside shards and tables.
    """

    place: str
    brain_key: str
    pictures: int
    left_out: tuple[str, ...]


def picture_samples(
    index: Index, pictures: Path | None = None, duplicates: float | None = None
) -> tuple[list[PictureSample], list[str]]:
    """Return a sample for each picture that is a file, and the paths of the others.

    pictures: a folder to which pictures inside shards and tables are written as files, named by their content; by default
        they are among the others, because FiftyOne shows files only. Those that cannot be read are among the others too.
    duplicates: distance up to which two pictures are near-duplicates; by default no groups are made. With it, or with at most
        20,000 pictures, each picture is compared with every other one.

    Raises ValueError for an index without pictures or without a single file, and as `near_duplicate_groups`.
    """
    if not len(index):
        raise ValueError(f"the index '{index.folder}' holds no pictures.")
    nearest: NDArray[np.float32] | None = None
    group_of: dict[int, int] = {}
    if len(index) > 1 and (duplicates is not None or len(index) <= _COMPARED):
        vectors = index.vectors()
        nearest = nearest_neighbours(vectors)[1]
        if duplicates is not None:
            groups = near_duplicate_groups(vectors, duplicates).groups
            group_of = {row: number for number, group in enumerate(groups, 1) for row in group.rows}
    copies = Counter(index.digests)
    files = files_of(index.paths, index.digests, pictures)
    first_row = {file: row for row, file in reversed(list(enumerate(files)))}  # copies inside shards share a file
    samples = [
        PictureSample(
            row,
            file,
            digest,
            width,
            height,
            size,
            copies[digest],
            None if nearest is None else float(nearest[row]),
            group_of.get(row),
        )
        for row, (file, digest, width, height, size) in enumerate(
            zip(files, *(index.column(name) for name in ("digest", "width", "height", "bytes")), strict=True)
        )
        if file is not None and first_row[file] == row
    ]
    others = [path for path, file in zip(index.paths, files, strict=True) if file is None]
    if not samples:
        raise ValueError(
            f"all {len(others)} pictures of '{index.folder}' are inside shards or tables, and FiftyOne shows files only; give "
            "a folder to which they are written."
        )
    return samples, others


def chunks(index: Index, samples: list[PictureSample]) -> Iterator[tuple[list[PictureSample], NDArray[np.float32]]]:
    """Yield the samples in parts, each with its embeddings, `(n, d)`."""
    for first in range(0, len(samples), _CHUNK):
        part = samples[first : first + _CHUNK]
        yield part, index.vectors([sample.row for sample in part])


def field_kinds(key: str) -> dict[str, str]:
    """Return the fields of a sample and their types, as FiftyOne calls them. Those of the metric have its key in front."""
    return {
        "digest": "StringField",
        "copies": "IntField",
        f"{key}_nearest_distance": "FloatField",
        f"{key}_near_duplicates": "IntField",
        f"{key}_embedding": "VectorField",
    }


def field_values(key: str, sample: PictureSample, embedding: Any) -> dict[str, Any]:
    """Return the values of these fields. embedding: as the format needs it."""
    values = (sample.digest, sample.copies, sample.nearest, sample.group, embedding)
    return dict(zip(field_kinds(key), values, strict=True))


def brain_key_of(metric: str) -> str:
    """Return the key under which FiftyOne lists the similarity of a metric, such as `dreamsim_photographs`."""
    name = re.sub(r"\W+", "_", Path(metric).stem, flags=re.ASCII).strip("_")
    return f"dreamsim_{name}" if name else "dreamsim"


def check_brain_key(key: str) -> str:
    """Return the key. Raises ValueError unless it is a name of letters, digits and underscores, as FiftyOne requires."""
    if not re.fullmatch(r"[A-Za-z]\w*", key, re.ASCII):
        raise ValueError(f"the key '{key}' must consist of letters, digits and underscores, and begin with a letter.")
    return key
