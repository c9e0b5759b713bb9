"""The command `consistency`: temporal consistency of folders of video frames."""

from __future__ import annotations

import csv
import json as jsonlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_file, check_picture, write_files
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.files.tables import text_table

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.consistency import Consistency

__all__ = ["ConsistencyCommand"]


@dataclass(frozen=True)
class ConsistencyCommand:
    """Say how consistent the frames of videos are over time, in the form of VBench.

    Each folder with frames, also below the given ones, is a video; the frames are sorted by the numbers in their names. The
    score is the mean similarity of a frame to the one before and to the first one, 1 for a still video.
    """

    source: Positional[tuple[str, ...]]
    """Folders of frames, patterns, shards, or an index of them. A folder with one frame is left out by name."""
    csv: Path | None = None
    """Write the distances of every frame to the one before and to the first one to this CSV file."""
    plot: Path | None = None
    """Draw these distances to this picture file (png, svg, pdf)."""
    metric: str | None = None
    """Name of the metric; by default that of the index, and for pictures photographs, or pocket where its extra is missing."""
    json: bool = False
    """Print JSON, with the distances, instead of a table."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        from dreamsim_guidance.cli.collections import report_broken, sorted_rows
        from dreamsim_guidance.retrieval.collection import opened
        from dreamsim_guidance.retrieval.consistency import temporal_consistency

        if self.csv is not None:
            check_file(self.csv, "--csv")
        if self.plot is not None:
            from dreamsim_guidance.retrieval.plots import ENDINGS

            check_picture(self.plot, "--plot", ENDINGS)
        with opened(self.source, self.metric, self.device) as index:
            report_broken(index)
            videos: dict[str, list[int]] = {}
            for row in sorted_rows(index):
                videos.setdefault(_folder(index.paths[row]), []).append(row)
            for name in [name for name, rows in videos.items() if len(rows) < 2]:
                del videos[name]
                print(f"left out: {printable(name)} (one frame, and a video needs at least 2)", file=sys.stderr)
            if not videos:
                raise ValueError("a video needs at least 2 frames, and no folder has so many; look at the sources.")
            frames = {name: [index.paths[row] for row in rows] for name, rows in videos.items()}
            results = {name: temporal_consistency(index.vectors(rows)) for name, rows in videos.items()}
        if self.json:
            print(jsonlib.dumps({name: _described(results[name], frames[name]) for name in videos}, indent=2))
        else:
            columns = ["consistency", "to previous", "to first", "frames", "largest jump", "at", "video"]
            rows = [_cells(name, result, frames[name]) for name, result in results.items()]
            print(text_table(columns, rows))
        writers: dict[Path, Callable[[Path], object]] = {}
        if self.csv is not None:
            writers[self.csv] = lambda file: _write_csv(file, results, frames)
        if self.plot is not None:
            from dreamsim_guidance.retrieval.plots import write_consistency

            writers[self.plot] = lambda file: write_consistency(results, file)
        write_files(writers)
        return 0


def _folder(path: str) -> str:
    """The folder of a frame, or the folder in the shard that holds it."""
    head, separator, _ = path.rpartition("/")
    if "::" in path and "::" not in head:
        return path.partition("::")[0]
    return head if separator else "."


def _cells(name: str, result: Consistency, frames: list[str]) -> list[str | int | float]:
    jump = result.largest_jump
    return [
        result.score,
        result.to_previous,
        result.to_first,
        len(frames),
        float(result.previous_distances[jump - 1]),
        printable(frames[jump].rpartition("/")[2]),
        printable(name),
    ]


def _described(result: Consistency, frames: list[str]) -> dict[str, object]:
    return {
        "consistency": result.score,
        "to_previous": result.to_previous,
        "to_first": result.to_first,
        "frames": [
            {"path": path, "to_previous": previous, "to_first": first}
            for path, previous, first in zip(
                frames,
                [None, *result.previous_distances.tolist()],
                [None, *result.first_distances.tolist()],
                strict=True,
            )
        ],
    }


def _write_csv(file: Path, results: dict[str, Consistency], frames: dict[str, list[str]]) -> None:
    from dreamsim_guidance.files.atomic import writing

    with writing(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["video", "frame", "distance_to_previous", "distance_to_first"])
        for name, result in results.items():
            previous, first = (
                [f"{distance:.6g}" for distance in distances]
                for distances in (result.previous_distances, result.first_distances)
            )
            for row in zip(frames[name], ["", *previous], ["", *first], strict=True):
                table.writerow([name, *row])
