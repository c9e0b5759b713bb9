"""A folder of triplets in NIGHTS' layout, before or after people have judged them.

    data.csv                     id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet,prompt
                                 and three columns of ours: way,left_distance,right_distance
    ref/012/345.png              the reference of triplet 12345
    distort/012/345_0.png, _1    its two variations; either may be the left one

A triplet that nobody has judged has 0 votes, and its `left_vote` and `right_vote` are empty: `read_nights` leaves it out, and
the original package's loader does too, because it asks for 6 votes. The first ten columns stand in the original's order, since
its loader reads them by position.

Splits follow the original's proportions, 80 % train, 10 % val and 10 % test (13,900, 1,720 and 1,824 of its 17,444 triplets
with 6 votes). `split_of` draws the split of a triplet from a seed and its key alone, so a set that grows or shrinks moves no
triplet into another split. Triplets with the same key, such as those that share a picture, are in the same split.

Fu et al., DreamSim, NeurIPS 2023.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.data.readers.table import inside, number, read_table
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.names import printable

__all__ = [
    "SHARES",
    "TripletRow",
    "distorted_path",
    "is_swapped",
    "is_unjudged",
    "read_triplet_rows",
    "reference_path",
    "split_of",
    "write_triplet_rows",
]

SHARES: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Share of each split, as in NIGHTS."""

_COLUMNS = (
    "id",
    "left_vote",
    "right_vote",
    "votes",
    "ref_path",
    "left_path",
    "right_path",
    "split",
    "is_imagenet",
    "prompt",
)
_OURS = ("way", "left_distance", "right_distance")


@dataclass(frozen=True)
class TripletRow:
    """One line of data.csv.

    reference, left, right: paths relative to the folder, with forward slashes.
    votes: how many people judged the triplet; 0 if nobody has. left_vote, right_vote: the shares of them that found the left or
        right variation nearer, in [0, 1], adding up to 1; None without votes.
    way: how the two variations were made, for example "seed"; "" if unknown.
    left_distance, right_distance: a metric's distances to the reference; None if not measured.
    """

    id: str
    reference: str
    left: str
    right: str
    split: str = "train"
    is_imagenet: bool = False
    prompt: str = ""
    votes: int = 0
    left_vote: float | None = None
    right_vote: float | None = None
    way: str = ""
    left_distance: float | None = None
    right_distance: float | None = None

    def __post_init__(self) -> None:
        shares = (self.left_vote, self.right_vote)
        if self.votes < 0 or shares.count(None) != (0 if self.votes else 2):
            raise ValueError(
                f"triplet {self.id}: {self.votes} votes with the shares {shares[0]} and {shares[1]}; a triplet without votes "
                "has none, any other has two."
            )


def write_triplet_rows(folder: Path, rows: Sequence[TripletRow]) -> Path:
    """Write data.csv, whole or not at all, and return its path. The pictures are the caller's task.

    Raises ValueError for an id that occurs twice, a path that leaves the folder, and text with control characters.
    """
    file = folder / "data.csv"
    ids: set[str] = set()
    for row in rows:
        _check(f"triplet {row.id}", row, ids)
    with writing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow((*_COLUMNS, *_OURS))
        for row in rows:
            shares = ("" if row.votes == 0 else row.left_vote, "" if row.votes == 0 else row.right_vote)
            paths = (row.reference, row.left, row.right)
            distances = ("" if value is None else repr(value) for value in (row.left_distance, row.right_distance))
            writer.writerow(
                (row.id, *shares, row.votes, *paths, row.split, row.is_imagenet, row.prompt, row.way, *distances)
            )
    return file


def read_triplet_rows(folder: Path | str) -> list[TripletRow]:
    """Read the triplets of a folder with data.csv, or of another csv file in NIGHTS' layout, judged or not.

    The columns `prompt`, `is_imagenet` and ours may be missing. Raises FileNotFoundError for a missing csv file or picture,
    ValueError for a missing column, impossible votes, a path that leaves the folder, an id that occurs twice, a triplet that
    shows one file twice, and a set without triplets.
    """
    path = Path(folder)
    file = path / "data.csv" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"triplets not found: '{file}'; give a folder with data.csv, or a csv file.")
    rows: list[TripletRow] = []
    ids: set[str] = set()
    for where, cells in read_table(file, _COLUMNS[:8], (*_COLUMNS[8:], *_OURS)):
        row = _row(where, cells)
        _check(where, row, ids)
        for name in (row.reference, row.left, row.right):
            if not (file.parent / name).is_file():
                raise FileNotFoundError(f"{where}: the picture '{file.parent / name}' is missing.")
        rows.append(row)
    if not rows:
        raise ValueError(f"'{file}' holds no triplets.")
    return rows


def is_unjudged(cells: Mapping[str, str]) -> bool:
    """Whether a line of data.csv says that nobody has judged its triplet: 0 votes, and no shares."""
    return cells["votes"] in ("", "0") and not cells["left_vote"] and not cells["right_vote"]


def reference_path(number: int) -> str:
    """The path of a reference: "ref/012/345.png" for triplet 12345."""
    return f"ref/{number // 1000:03}/{number % 1000:03}.png"


def distorted_path(number: int, variation: int) -> str:
    """The path of a variation, 0 or 1: "distort/012/345_0.png"."""
    return f"distort/{number // 1000:03}/{number % 1000:03}_{variation}.png"


def split_of(key: str, seed: int = 0, shares: Mapping[str, int | float] = SHARES) -> str:
    """Return the split of the triplets with this key, drawn by the shares.

    key: the triplet's id, or what it shares with others, such as its category.
    shares: of each split, adding up to 1; by default `SHARES`.
    """
    place = _uniform(f"split {seed} {key}")
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return next(reversed(list(shares)))


def is_swapped(key: str, seed: int = 0) -> bool:
    """Whether variation 1, not 0, is on the left in the triplet with this key; true for half of all keys, at random."""
    return _uniform(f"sides {seed} {key}") < 0.5


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _row(where: str, cells: Mapping[str, str]) -> TripletRow:
    votes, left, right = 0, None, None
    if not is_unjudged(cells):
        votes = int(number(where, "votes", cells["votes"], 1.0))
        if votes != float(cells["votes"]):
            raise ValueError(f"{where}: votes must be a whole number, got {cells['votes']}.")
        left, right = (number(where, name, cells[name], 0.0, 1.0) for name in ("left_vote", "right_vote"))
        if abs(left + right - 1) > 1e-3:
            raise ValueError(f"{where}: left_vote and right_vote must add up to 1, got {left:g} and {right:g}.")
    distances = [
        number(where, name, cells[name], 0.0) if cells[name] else None for name in ("left_distance", "right_distance")
    ]
    return TripletRow(
        cells["id"],
        cells["ref_path"],
        cells["left_path"],
        cells["right_path"],
        cells["split"],
        cells["is_imagenet"].lower() in ("true", "1"),
        cells["prompt"],
        votes,
        left,
        right,
        cells["way"],
        *distances,
    )


def _check(where: str, row: TripletRow, ids: set[str]) -> None:
    if row.id in ids:
        raise ValueError(f"{where}: the id {row.id} occurs twice.")
    ids.add(row.id)
    for text in (row.id, row.reference, row.left, row.right, row.split, row.prompt, row.way):
        if printable(text) != text:
            raise ValueError(f"{where}: {text!r} has control characters, which a line of data.csv cannot hold.")
    paths = [inside(where, name) for name in (row.reference, row.left, row.right)]
    if len(set(paths)) < 3:
        raise ValueError(f"{where}: a triplet needs three files, got {', '.join(paths)}.")
