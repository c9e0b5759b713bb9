"""The command `compare`: distances between images. Every image is read and embedded once.

two files              one pair
three or more files    the first file, the reference, with each of the others
two folders            the pictures with the same file name
a CSV file             the pairs in its rows
"""

from __future__ import annotations

import csv
import glob
import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from dreamsim_guidance.files.names import printable

if TYPE_CHECKING:
    from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["CompareCommand", "Pairs", "distances", "find_pairs", "load_metric", "read_pairs"]


@dataclass(frozen=True)
class CompareCommand:
    """Distances between images: two files, one reference against several, two folders (by file name), or pairs.

    0 means alike, larger means more different. Images may have any size. Patterns such as 'out/*.png' are expanded, and a
    folder stands for the pictures in it. With one reference against several, the reference is the first file.
    """

    images: Positional[tuple[str, ...]] = ()
    """Files, folders, patterns."""
    metric: str = "ensemble"
    """ensemble, dino_vitb16, clip_vitb32, ... (published weights), photographs (real towers, from the extra), pocket (shipped),
    or a model file (.safetensors)."""
    pairs: Path | None = None
    """A CSV file with two columns of paths, relative to its folder; a header line is skipped."""
    json: bool = False
    """Print JSON instead of a table."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        if bool(self.images) == (self.pairs is not None):
            raise ValueError("give images (files, folders, patterns) or --pairs FILE.csv.")
        compared = read_pairs(self.pairs) if self.pairs else find_pairs(self.images)
        for folder, names in compared.unmatched.items():
            print(f"only in {folder}: {', '.join(map(printable, names))}", file=sys.stderr)
        values = distances(compared.pairs, self.metric, self.device)
        if self.json:
            rows = [
                {"a": a.as_posix(), "b": b.as_posix(), "distance": distance}
                for (a, b), distance in zip(compared.pairs, values, strict=True)
            ]
            print(jsonlib.dumps({"metric": self.metric, "pairs": rows, "unmatched": compared.unmatched}, indent=2))
        elif len(values) == 1:
            print(f"{values[0]:.6f}")
        else:
            for label, distance in zip(compared.labels, values, strict=True):
                print(f"{distance:.6f}  {printable(label)}")
            if compared.labels != [b.as_posix() for _, b in compared.pairs]:
                print(f"{sum(values) / len(values):.6f}  mean of {len(values)}")
        return 0


@dataclass(frozen=True)
class Pairs:
    """The pairs of files that are compared."""

    pairs: list[tuple[Path, Path]]
    labels: list[str]
    """The name of each pair in the table."""
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    """By folder, the files that have no partner in the other folder."""


def find_pairs(arguments: Sequence[str]) -> Pairs:
    """The pairs that files, folders and patterns describe, see above.

    Raises FileNotFoundError for a missing file or a pattern without a match, ValueError for arguments that form no pair.
    """
    paths = [path for argument in arguments for path in _expand(argument)]
    if not paths:
        raise ValueError("at least two images are needed, got none; give files, folders or patterns.")
    if len(paths) == 2 and all(path.is_dir() for path in paths):
        return _match(*paths)
    if paths[0].is_dir():
        raise ValueError(f"the first of several must be the reference, a file; '{paths[0]}' is a folder.")
    files = [file for path in paths for file in (_pictures(path) if path.is_dir() else [path])]
    if len(files) < 2:
        raise ValueError(f"at least two images are needed, got {len(files)}: '{files[0]}'.")
    return Pairs([(files[0], file) for file in files[1:]], [file.as_posix() for file in files[1:]])


def read_pairs(file: Path) -> Pairs:
    """The pairs in the first two columns of a CSV file, paths relative to its folder. Errors as `find_pairs`."""
    if not file.is_file():
        raise FileNotFoundError(f"pairs not found: '{file}'; give a CSV file with two columns of paths.")
    pairs: list[tuple[Path, Path]] = []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"'{file}' is not a text file; give a CSV file with two columns of paths.") from error
    for number, row in enumerate(csv.reader(lines), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) < 2 or not all(cells[:2]):
            raise ValueError(f"'{file}', line {number}: two paths are needed, got {','.join(row)!r}.")
        a, b = (file.parent / cell for cell in cells[:2])
        if number == 1 and not (a.suffix or b.suffix or a.is_file() or b.is_file()):
            continue  # the header
        pairs.append((a, b))
    if not pairs:
        raise ValueError(f"'{file}' holds no pairs; write two paths a line, separated by a comma.")
    for path in (path for pair in pairs for path in pair):
        _check_exists(path)
    return Pairs(pairs, [f"{a.as_posix()}  {b.as_posix()}" for a, b in pairs])


def distances(pairs: Sequence[tuple[Path, Path]], model: str, device: str | None = None) -> list[float]:
    """The metric's distance for every pair, in order; arguments as `load_metric`."""
    from dreamsim_guidance.evaluation.metrics.embedding import directions
    from dreamsim_guidance.metric.distance import half_chord

    files = list(dict.fromkeys(path for pair in pairs for path in pair))
    direction = dict(zip(files, directions(load_metric(model, device), files), strict=True))
    return [float(half_chord(direction[a], direction[b])) for a, b in pairs]


def load_metric(model: str, device: str | None = None) -> DreamSim:
    """Load a metric by name or file, by default on an accelerator if there is one.

    Raises OSError where weights cannot be downloaded; the message names the metric that needs no download.
    """
    from dreamsim_guidance.metric.dreamsim import DreamSim
    from dreamsim_guidance.processes import default_device

    device = device or default_device()
    try:
        return DreamSim(model, device=device)
    except OSError as error:
        if model == "pocket":
            raise
        raise OSError(f"{error} Or use --metric pocket, the small models that ship with the package.") from error


def _expand(argument: str) -> list[Path]:
    """The file or folder that an argument names, or all that match it as a pattern."""
    if not argument.strip():
        raise ValueError("the path of an image is empty; is a variable of your shell not set?")
    path = Path(argument)
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        files = sorted(Path(match) for match in glob.glob(argument, recursive=True))
        if files:
            return files
        raise FileNotFoundError(f"no file matches '{argument}'.")
    _check_exists(path)
    return [path]


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"image not found: '{path}'.")


def _match(a: Path, b: Path) -> Pairs:
    """The pairs of pictures that have the same name in two folders."""
    left = {path.name: path for path in _pictures(a)}
    right = {path.name: path for path in _pictures(b)}
    names = sorted(left.keys() & right.keys())
    if not names:
        raise ValueError(
            f"'{a}' ({len(left)} pictures) and '{b}' ({len(right)}) have no file name in common; "
            "use --pairs FILE.csv to say which belong together."
        )
    unmatched = {a.as_posix(): sorted(left.keys() - right.keys()), b.as_posix(): sorted(right.keys() - left.keys())}
    return Pairs(
        [(left[n], right[n]) for n in names], names, {where: rest for where, rest in unmatched.items() if rest}
    )


def _pictures(folder: Path) -> list[Path]:
    from dreamsim_guidance.files.pictures import SUFFIXES

    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not pictures:
        raise ValueError(f"no pictures in '{folder}' ({', '.join(SUFFIXES)}).")
    return pictures
