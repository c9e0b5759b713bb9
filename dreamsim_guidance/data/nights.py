"""NIGHTS: 20,019 triplets of a picture and two variations of it by a generator, and which people found nearer."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamsim_guidance.data.judgments import Judgments

__all__ = ["SPLITS", "read_nights"]

SPLITS = ("train", "val", "test", "test_imagenet", "test_no_imagenet")
"""Of NIGHTS; the last two are parts of "test"."""

_COLUMNS = ("id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split")


def read_nights(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Judgments in NIGHTS' layout, `data.csv` and pictures below `root`, or any csv of the same columns.

    `root` is the folder, or the csv file; paths are relative to its folder. Left is a, right is b. `left_vote` and
    `right_vote` are the winner (0 and 1, as in NIGHTS) or shares of `votes`. `split` is one of `SPLITS` or another
    word of the column "split"; None takes all rows. `least_votes` leaves out triplets with fewer; by default 6, the
    original's filter, where all votes are winners (in NIGHTS `votes` counts people who all said the same), and 1 where
    they are shares.

    NIGHTS: https://github.com/ssundaram21/dreamsim (Fu et al., 2023; MIT licence).
    Raises FileNotFoundError for a missing csv or picture, ValueError for a missing column, odd votes, a path that
    leaves the folder, an id that occurs twice, and a split without triplets.
    """
    file = Path(root)
    file = file / "data.csv" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"judgments not found: '{file}'; give the folder with data.csv, or a csv file.")
    rows = list(_rows(file))
    shares = any(row.left not in (0.0, 1.0) for row in rows)
    least = (1 if shares else 6) if least_votes is None else least_votes
    chosen = [row for row in rows if row.votes >= least and (split is None or _in_split(split)(row))]
    if not chosen:
        known = ", ".join(sorted({row.split for row in rows})) or "none"
        raise ValueError(
            f"'{file}' has no triplets of split {split!r} with at least {least} votes, of {len(rows)}; its splits: {known}."
        )
    names = list(dict.fromkeys(name for row in chosen for name in (row.reference, row.a, row.b)))
    if missing := [name for name in names if not (file.parent / name).is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} pictures of '{file}' are missing, the first: '{file.parent / missing[0]}'."
        )
    place = {name: i for i, name in enumerate(names)}
    return Judgments(
        images=tuple(file.parent / name for name in names),
        reference=np.array([place[row.reference] for row in chosen]),
        a=np.array([place[row.a] for row in chosen]),
        b=np.array([place[row.b] for row in chosen]),
        votes_a=np.array([row.left * row.votes for row in chosen]),
        votes_b=np.array([row.right * row.votes for row in chosen]),
        group=tuple("imagenet" if row.is_imagenet else "other" for row in chosen),
        split=tuple(row.split for row in chosen),
    )


@dataclass(frozen=True)
class _Row:
    left: float
    right: float
    votes: float
    reference: str
    a: str
    b: str
    split: str
    is_imagenet: bool


def _rows(file: Path) -> Iterator[_Row]:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            found = ", ".join(reader.fieldnames or ()) or "nothing"
            raise ValueError(f"'{file}' lacks the column {missing[0]}; it has {found}. Needed: {', '.join(_COLUMNS)}.")
        ids: set[str] = set()
        for row in reader:
            where = f"'{file}', line {reader.line_num}"
            if row["id"] in ids:
                raise ValueError(f"{where}: the id {row['id']} occurs twice.")
            ids.add(row["id"])
            left, right, votes = _votes(where, row["left_vote"], row["right_vote"], row["votes"])
            paths = [_path(where, row[name]) for name in ("ref_path", "left_path", "right_path")]
            imagenet = (row.get("is_imagenet") or "").strip().lower() in ("true", "1")
            yield _Row(left, right, votes, paths[0], paths[1], paths[2], row["split"].strip(), imagenet)


def _votes(where: str, *words: str | None) -> Sequence[float]:
    try:
        left, right, votes = (float(word or "") for word in words)
    except ValueError as error:
        raise ValueError(f"{where}: left_vote, right_vote and votes must be numbers, got {words}.") from error
    if not (0 <= left <= 1 and 0 <= right <= 1 and abs(left + right - 1) < 1e-3 and 1 <= votes < float("inf")):
        raise ValueError(
            f"{where}: left_vote and right_vote must lie in [0, 1] and add up to 1, votes be at least 1, got {words}."
        )
    return left, right, votes


def _path(where: str, name: str | None) -> str:
    parts = (name or "").replace("\\", "/").split("/")
    if not name or ".." in parts or Path(name).is_absolute() or (len(name) > 1 and name[1] == ":"):
        raise ValueError(f"{where}: the path {name!r} leaves the folder of the csv file; paths are relative to it.")
    return name


def _in_split(split: str) -> Callable[[_Row], bool]:
    if split in ("test_imagenet", "test_no_imagenet"):
        return lambda row: row.split == "test" and row.is_imagenet == (split == "test_imagenet")
    return lambda row: row.split == split
