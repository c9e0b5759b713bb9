"""Pictures that are searched for, as unit vectors.

A query is a file, its URL, a path that the index has, or a tensor. A file whose content is in the index, under whatever
name, takes its stored vector, so that no network runs and its own distance is exactly zero. So does a path in the index whose
file has gone.

With a mask the query is what the metric makes of the picture with everything outside replaced by one colour (see
`metric.distance.mask_out`). The rows of the index are whole pictures: their surroundings were never masked, so that even the
picture itself is not at distance zero. `metric(x, y, mask)` masks both pictures and has to be computed pair by pair.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.pictures import decode_pixels
from dreamsim_guidance.preprocess import check_images, check_range, load_image, to_image
from dreamsim_guidance.retrieval.embedder import digest_of
from dreamsim_guidance.retrieval.members import readable_contents
from dreamsim_guidance.retrieval.rows import Rows, unit_rows
from dreamsim_guidance.retrieval.sources.piece import path_of
from dreamsim_guidance.retrieval.sources.remote import is_url, remote_bytes
from dreamsim_guidance.retrieval.tables import conditions

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.index import Index

__all__ = ["Query", "as_list", "check_mask", "path_in_index", "query_rows", "read_mask", "rows_where"]

Query = str | os.PathLike[str] | Tensor
"""A picture file or its URL, a path in the index, or images `(b, 3, h, w)` in [0, 1], which are b queries."""

_ASPECT = 0.02
"""How much the aspect ratios of a mask and its picture may differ, relatively: the rounding of a resize."""


def query_rows(index: Index, queries: Query | Sequence[Query], mask: Tensor | None = None) -> Rows:
    """Return the unit vectors of queries, `(q, d)`.

    queries: one or several; see `Query`. mask: `(1, 1, h, w)` in [0, 1], 1 counts, for all of them; of any size, but with their
        aspect ratio.

    Raises FileNotFoundError for what is neither a file nor a path in the index, ValueError for a file that is no picture, for
    no query at all, and for a mask of another shape; TypeError or ValueError for tensors that are no images. For URLs as
    `sources.remote.remote_picture`.
    """
    pictures = as_list(queries)
    if not pictures:
        raise ValueError("at least one query is needed, got none; give a picture.")
    return np.concatenate([_rows(index, query, mask) for query in pictures])


def as_list(queries: Query | Sequence[Query]) -> list[Query]:
    """One query or several as a list."""
    return [queries] if isinstance(queries, str | os.PathLike | Tensor) else list(queries)


def read_mask(file: str | os.PathLike[str]) -> Tensor:
    """Read a mask `(1, 1, h, w)` in [0, 1] from a picture file: white counts, black is left out. Errors as `load_image`."""
    return load_image(file).mean(1, keepdim=True)


def _rows(index: Index, query: Query, mask: Tensor | None) -> Rows:
    if isinstance(query, Tensor):
        return _embedded(index, query, mask)
    name = os.fspath(query)
    data = _contents(index, name)
    if mask is None:
        column, values = ("digest", [digest_of(data)]) if data is not None else ("path", _spellings(name))
        rows = rows_where(index, column, values)
        if len(rows):
            return unit_rows(index.vectors(rows[:1]))
    if data is None:
        data = _from_index(index, name)
    embedder = index.embedder
    prepared = embedder.prepare(data, printable(name))
    if mask is None:
        return unit_rows(embedder.embed([prepared]))
    return _embedded(index, to_image(decode_pixels(data, printable(name), embedder.reading)), mask)


def _contents(index: Index, name: str) -> bytes | None:
    """The bytes of a query's file, None for what the index may have."""
    if is_url(name):
        return None if path_in_index(index, name) else remote_bytes(name)
    try:
        return Path(name).read_bytes() if os.path.isfile(name) else None
    except OSError as error:
        raise ValueError(f"'{printable(name)}' cannot be read ({error.strerror or error}).") from error


def _embedded(index: Index, images: Tensor, mask: Tensor | None) -> Rows:
    check_images(images, "the query")
    metric = index.metric
    images = images.to(metric.device, torch.promote_types(metric.dtype, torch.float32))
    check_range(images, "the query")
    if mask is not None:
        check_mask(mask, images)
        mask = mask.to(images.device, images.dtype)
    with torch.inference_mode():
        return unit_rows(metric.directions(images, mask))


def check_mask(mask: Tensor, images: Tensor) -> None:
    """Raise ValueError for a mask that is not `(1, 1, h, w)` or has another aspect ratio than the images."""
    if mask.ndim != 4 or mask.shape[:2] != (1, 1):
        raise ValueError(f"a mask must have shape (1, 1, h, w), got {tuple(mask.shape)}; 1 counts, 0 is left out.")
    (rows, columns), (height, width) = mask.shape[-2:], images.shape[-2:]
    if abs(rows * width - columns * height) > max(_ASPECT * rows * width, rows + width):
        raise ValueError(
            f"the mask must have the shape of its picture, got {columns} x {rows} for a picture of {width} x {height} pixels; "
            "another size is resized, another aspect ratio is not."
        )


def rows_where(index: Index, column: str, values: Sequence[str]) -> list[int]:
    """The rows whose column `path` or `digest` has one of the values, in increasing order."""
    rows: list[int] = []
    for condition in conditions(column, values):
        query: Any = index.table.search().where(condition).select(["_rowoffset"]).limit(None)
        rows += query.to_arrow().column("_rowoffset").to_pylist()
    return sorted(rows)


def path_in_index(index: Index, name: str) -> str | None:
    """The path by which the index has what a word of the command line names; None if it has nothing of the kind."""
    (condition,) = conditions("path", _spellings(name))
    query: Any = index.table.search().where(condition).select(["path"]).limit(1)
    paths: list[str] = query.to_arrow().column("path").to_pylist()
    return paths[0] if paths else None


def _spellings(name: str) -> list[str]:
    """The paths in an index that a word of the command line may mean."""
    container, separator, member = name.partition("::")
    inside = path_of(os.path.abspath(container)) + separator + member  # a member's name may contain `..`
    return list(dict.fromkeys([name, path_of(name), path_of(os.path.abspath(name)), inside]))


def _from_index(index: Index, name: str) -> bytes:
    """The bytes of a picture in a shard or table that the index names. Raises FileNotFoundError if there is none."""
    path = path_in_index(index, name)
    data = None if path is None else readable_contents([path]).get(path)
    if data is None:
        raise FileNotFoundError(
            f"'{printable(name)}' is neither a picture file nor a picture of this index; look at its name."
        )
    return data
