"""PIPAL: distorted and restored patches, many by generative networks, with Elo scores from 1.13 million comparisons.

Of 250 references 200 are public with their scores, each with 116 pictures.

    Train_Label/A0001.txt          lines of a file and its score, "A0001_00_00.bmp,1520.0648"
    Train_Ref/A0001.bmp            the reference has the first part of the name
    Train_Dist/A0001_00_00.bmp     or Distortion_1 to Distortion_4, as the archives unpack

Where: https://github.com/HaomingCai/PIPAL-dataset links to the archives. Licence: none is stated there; see
https://www.jasongt.com/projectpages/pipal.html. Gu et al., PIPAL, ECCV 2020.
"""

from __future__ import annotations

import os
from pathlib import Path

from dreamsim_guidance.data.judgments import choose
from dreamsim_guidance.data.ratings import Rating, Ratings, gather_ratings
from dreamsim_guidance.data.readers.table import inside, number

__all__ = ["label_files", "read_pipal"]


def read_pipal(root: Path | str, split: str | None = None) -> Ratings:
    """Read all scores below `root`; the group is the second part of a name, "00" to "06", the kind of restoration.

    Pictures are found by name anywhere below `root`, labels in `Train_Label/*.txt` (split "train"), `Val_Label`, or a file
    `val_label.txt`, in upper or lower case. A better picture has a higher score. Raises FileNotFoundError for missing labels
    or pictures, ValueError for a line that is not a name and a score, a name that two pictures or two lines share, and
    a split without scores.
    """
    root = Path(root)
    files = label_files(root)
    if not files:
        raise FileNotFoundError(f"'{root}' has no labels such as Train_Label/A0001.txt; give the folder of PIPAL.")
    pictures = _by_name(root)
    rows = []
    for file, part in files:
        for line, text in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not text.strip():
                continue
            where, cells = f"'{file}', line {line}", [cell.strip() for cell in text.split(",")]
            if len(cells) != 2 or cells[0].count("_") < 2:
                raise ValueError(f"{where}: a file such as A0001_00_00.bmp and a score are needed, got {text!r}.")
            name = inside(where, cells[0])
            first, group, *_ = Path(name).stem.split("_")
            reference = first + Path(name).suffix
            paths = [pictures.get(n.lower(), root / n) for n in (reference, name)]
            rows.append(Rating(paths[0], paths[1], number(where, "the score", cells[1]), group, part))
    return gather_ratings(choose(rows, root, split), root)


def label_files(root: Path) -> list[tuple[Path, str]]:
    """Return the files of labels, each with its split."""
    files = []
    for place in sorted(root.glob("*")):
        part, _, rest = place.name.lower().partition("_")
        if rest == "label" and os.path.isdir(place):
            files += [(file, part) for file in sorted(place.glob("*.txt")) if os.path.isfile(file)]
        elif rest == "label.txt" and os.path.isfile(place):
            files.append((place, part))
    return files


def _by_name(root: Path) -> dict[str, Path]:
    places: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".bmp", ".png"):
            other = places.setdefault(path.name.lower(), path)
            if other != path:
                raise ValueError(f"'{other}' and '{path}' have the same name; keep one of them below '{root}'.")
    return places
