"""CLIC: pairs of decoded pictures, and which of them a person preferred, seeing the original too.

A csv file without header, `original,A,B,answer`: three picture files, and 0 if A was preferred, 1 if B. The same question
asked again counts as another vote.

Where: oracle.csv and crops of 2021 from https://github.com/fab-jul/clic2021-devkit; answers and crops of 2021, 2022 and
2024 from https://archive.compression.cc/datasets. Licence: none is stated there; most originals come from Unsplash.
Challenge on Learned Image Compression, https://compression.cc.
"""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather
from dreamsim_guidance.data.readers.table import first_records, inside, read_records

__all__ = ["answer_files", "has_answers", "read_clic"]


def read_clic(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read the pairs of a csv file, or of the only csv file with answers in the folder `root`; there are no splits.

    Paths are relative to the file's folder; a picture that is not there is looked up by its name anywhere below. Answers to
    the same question are added up, whichever order A and B were shown in. Questions that offer the original itself, or the
    same picture twice, check the raters' attention and are left out. Raises FileNotFoundError for a missing file or picture,
    ValueError for a line that is not three paths and 0 or 1, a path that leaves the folder, and several such files.
    """
    file = _file(Path(root))
    votes: dict[tuple[str, str, str], list[float]] = {}
    for line, cells in read_records(file):
        where, words = f"'{file}', line {line}", [cell.strip() for cell in cells]
        if not any(words) or (line == 1 and _is_header(words)):
            continue
        if len(words) != 4 or words[3] not in ("0", "1"):
            raise ValueError(f"{where}: original,A,B and 0 or 1 are needed, got {','.join(cells)!r}.")
        original, a, b = (inside(where, word) for word in words[:3])
        if len({original, a, b}) == 3:
            turned = (original, b, a) in votes
            key = (original, b, a) if turned else (original, a, b)
            votes.setdefault(key, [0.0, 0.0])[int(words[3]) ^ turned] += 1
    place = _PictureFinder(file.parent)
    rows = [Triplet(place(o), place(a), place(b), for_a, for_b) for (o, a, b), (for_a, for_b) in votes.items()]
    return gather(choose(rows, file, split, least_votes or 1), file)


def answer_files(folder: Path) -> list[Path]:
    """Return the csv files of a folder that begin with three paths and an answer."""
    return [file for file in sorted(folder.glob("*.csv")) if has_answers(file)]


def has_answers(file: Path) -> bool:
    """Whether a file begins with three paths and an answer, with or without a header."""
    first = first_records(file, 2)
    return any(len(words) == 4 and words[3] in ("0", "1") and Path(words[0]).suffix != "" for words in first)


def _is_header(words: list[str]) -> bool:
    return len(words) == 4 and not any(Path(word).suffix for word in words[:3]) and words[3] not in ("0", "1")


def _file(root: Path) -> Path:
    if root.is_file():
        return root
    files = answer_files(root) if root.is_dir() else []
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise (ValueError if files else FileNotFoundError)(
            f"'{root}' must have one csv file of original,A,B,answer, it has {names}; give the file itself."
        )
    return files[0]


class _PictureFinder:
    """Finds pictures: at the path that is written, or else by their name anywhere below the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name: dict[str, Path] | None = None

    def __call__(self, name: str) -> Path:
        if (self.folder / name).is_file():
            return self.folder / name
        if self.by_name is None:
            self.by_name = {path.name: path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        return self.by_name.get(Path(name).name, self.folder / name)
