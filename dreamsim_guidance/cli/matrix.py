"""The command `matrix`: the distances between all pictures of a collection."""

from __future__ import annotations

import csv
import json as jsonlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_file, check_picture, write_files
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.tables import text_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MatrixCommand"]

_SHOWN = 12
"""Up to so many pictures the terminal shows the whole matrix."""


@dataclass(frozen=True)
class MatrixCommand:
    """Distances between all pictures of a collection, from one embedding of each.

    0 means alike. Up to 12 pictures the matrix is printed; of larger collections the nearest neighbour of each picture.
    """

    source: Positional[tuple[str, ...]]
    """An index; or folders, files, patterns, shards, tables and lists of pictures."""
    metric: str | None = None
    """Name of the metric; by default that of the index, and for pictures photographs, or pocket where its extra is missing."""
    order: Literal["name", "similarity"] = "name"
    """Sort the pictures by name (numbers as numbers), or so that similar ones are neighbours (hierarchical clustering)."""
    csv: Path | None = None
    """Write the matrix to this CSV file, row by row, with the paths as headings. There is no limit to its size."""
    png: Path | None = None
    """Write the matrix as a heat map to this picture file."""
    json: bool = False
    """Print paths and distances as JSON."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        from dreamsim_guidance.cli.collections import report_broken, sorted_rows
        from dreamsim_guidance.retrieval.collection import opened
        from dreamsim_guidance.retrieval.matrix import distance_matrix, distance_rows, hierarchical_order

        if self.csv is not None:
            check_file(self.csv, "--csv")
        if self.png is not None:
            from dreamsim_guidance.retrieval.plots import ENDINGS

            check_picture(self.png, "--png", ENDINGS)
        with opened(self.source, self.metric, self.device) as index:
            report_broken(index)
            rows = sorted_rows(index)
            paths, vectors = [index.paths[row] for row in rows], index.vectors(rows)
        if self.order == "similarity":
            order = hierarchical_order(distance_matrix(vectors))
            paths, vectors = [paths[i] for i in order], vectors[order]
        if self.json:
            _print_json(paths, distance_rows(vectors))
        else:
            print("\n".join(_lines(paths, vectors)))
        writers: dict[Path, Callable[[Path], object]] = {}
        if self.csv is not None:
            writers[self.csv] = lambda file: _write_csv(file, paths, distance_rows(vectors))
        if self.png is not None:
            from dreamsim_guidance.retrieval.plots import write_heat_map

            writers[self.png] = lambda file: write_heat_map(distance_matrix(vectors), paths, file)
        write_files(writers)
        return 0


def _print_json(paths: Sequence[str], blocks: Iterator[NDArray[np.float32]]) -> None:
    print(f'{{"paths": {jsonlib.dumps(list(paths))}, "distances": [')
    separator = ""
    for block in blocks:
        for row in block:
            sys.stdout.write(f"{separator}[{', '.join(f'{distance:.6g}' for distance in row.tolist())}]")
            separator = ",\n"
    print("]}")


def _write_csv(file: Path, paths: Sequence[str], blocks: Iterator[NDArray[np.float32]]) -> None:
    from dreamsim_guidance.files.atomic import writing

    with writing(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", *paths])
        names = iter(paths)
        for block in blocks:
            for row in block:
                table.writerow([next(names), *(f"{distance:.6g}" for distance in row.tolist())])


def _lines(paths: Sequence[str], vectors: NDArray[np.float32]) -> list[str]:
    from dreamsim_guidance.retrieval.diversity import mean_pairwise_distance
    from dreamsim_guidance.retrieval.matrix import distance_matrix, nearest_neighbours

    names = [printable(path) for path in paths]
    if len(paths) <= _SHOWN:
        matrix = distance_matrix(vectors)
        columns = ["", *(str(i) for i in range(1, len(paths) + 1)), "path"]
        return [text_table(columns, [[i, *row.tolist(), names[i - 1]] for i, row in enumerate(matrix, 1)])]
    nearest, distances = nearest_neighbours(vectors)
    rows = [[float(distances[i]), names[i], names[nearest[i]]] for i in range(len(paths))]
    return [
        text_table(["distance", "picture", "nearest"], rows),
        f"{len(paths):,} pictures, mean distance of all pairs {mean_pairwise_distance(vectors):.4f}",
    ]
