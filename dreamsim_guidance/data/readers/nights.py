"""NIGHTS: triplets of a picture and two generated variations of it, and which variation people found nearer.

Three sets: the 20,019 triplets on which people agreed, on which DreamSim was trained; all 100,000 triplets before that filter;
and votes on whether a variation can be distinguished from its reference at a glance.

Where: `dreamsim-guidance data nights --to DIR` downloads them from the authors' server, https://data.csail.mit.edu/nights.
Licence: the repository that describes and fetches them, https://github.com/ssundaram21/dreamsim, is under MIT; the
pictures and votes state none of their own. Fu et al., DreamSim, NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather
from dreamsim_guidance.data.readers.table import inside, number, read_header, read_records, read_table
from dreamsim_guidance.data.same_pairs import Pair, SamePairs, gather_pairs
from dreamsim_guidance.data.triplet_folder import is_unjudged

__all__ = ["SPLITS", "read_nights", "read_nights_jnd", "read_nights_unfiltered"]

SPLITS = ("train", "val", "test", "test_imagenet", "test_no_imagenet")
"""Splits of NIGHTS; the last two are parts of "test"."""

_VOTES = ("id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path")
_JND = ("id", "ref_path", "distort_path", "same", "votes")


def read_nights(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read judgments in NIGHTS' layout: `data.csv` and pictures in `root`, or any csv file with the same columns.

    root: the folder or the csv file; paths are relative to its folder. Left is a, right is b. `left_vote` and `right_vote` are
        the winner (0 and 1, as in NIGHTS) or shares of `votes`. The group is "imagenet" or "other".
    split: one of `SPLITS`, or another word of the column "split"; None, the default, takes all rows.
    least_votes: leave out triplets with fewer votes. By default 6, the original's filter, if all votes are winners (in NIGHTS,
        `votes` counts people who all gave the same answer), and 1 if they are shares, as always in the csv file of a study,
        which is recognised by its column "left_method".

    Raises FileNotFoundError for a missing csv file or picture, ValueError for a missing column, impossible votes, a path that
    leaves the folder, an id that occurs twice, a split without triplets, and a set of which nothing has been judged yet (see
    `data.triplet_folder`).
    """
    file = _csv(root, "data.csv")
    rows = list(_triplets(file, read_table(file, (*_VOTES, "split"), ("is_imagenet",))))
    if not rows and len(list(islice(read_records(file), 2))) == 2:
        raise ValueError(
            f"nobody has judged the triplets of '{file}' yet; ask people with `dreamsim-guidance study make FOLDER`."
        )
    shares = "left_method" in read_header(file) or any(0 < row.votes_a < row.votes for row in rows)
    least = (1 if shares else 6) if least_votes is None else least_votes
    chosen = choose(rows, file, split, least, lambda row: _is_in(row, split))
    return gather(chosen, file)


def read_nights_unfiltered(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read all 100,000 triplets: `nights_raw.csv` and pictures in `root`, or the csv file.

    Many have few votes, or people disagreed; `least_votes` is 1 by default, and rows without a vote are left out. The file is
    known to hold the shares of left and right, the number of votes, and the paths; whether its columns have the same names as
    in `read_nights` could not be checked. If they differ, the error lists both: rename them in the file's first line. A column
    "split" is not needed. Raises the errors of `read_nights`.
    """
    file = _csv(root, "nights_raw.csv")
    lines = read_table(file, _VOTES, ("split", "is_imagenet"))
    rows = list(_triplets(file, lines, may_be_unseen=True))
    least = 1 if least_votes is None else least_votes
    chosen = choose(rows, file, split, least, lambda row: _is_in(row, split))
    return gather(chosen, file)


def read_nights_jnd(root: Path | str, split: str | None = None, least_votes: int | None = None) -> SamePairs:
    """Read just noticeable differences: `jnd_votes.csv` beside NIGHTS' pictures, or the csv file.

    Columns: `id`, `ref_path`, `distort_path` (relative to the csv file), `same` (the share of people who saw no difference, in
    [0, 1]), `votes` (how many were asked), and `split`, which may be missing. **These names are ours:** no description of the
    published file's columns could be found; only a notebook of its authors loads it. If they differ, the error lists both:
    rename them in the file's first line. Raises the errors of `read_nights`.
    """
    file = _csv(root, "jnd_votes.csv")
    ids: set[str] = set()
    rows = []
    for where, row in read_table(file, _JND, ("split",)):
        _check_new(where, row["id"], ids)
        a, b = (file.parent / inside(where, row[name]) for name in ("ref_path", "distort_path"))
        same = number(where, "same", row["same"], 0.0, 1.0)
        rows.append(Pair(a, b, same, number(where, "votes", row["votes"], 1.0), "nights", row["split"]))
    return gather_pairs(choose(rows, file, split, least_votes or 1), file)


@dataclass(frozen=True)
class _Triplet(Triplet):
    is_imagenet: bool = False


def _is_in(row: _Triplet, split: str | None) -> bool:
    if split in ("test_imagenet", "test_no_imagenet"):
        return row.split == "test" and row.is_imagenet == (split == "test_imagenet")
    return row.split == split


def _csv(root: Path | str, name: str) -> Path:
    file = Path(root)
    file = file / name if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"judgments not found: '{file}'; give the folder with {name}, or a csv file.")
    return file


def _triplets(
    file: Path, lines: Iterator[tuple[str, dict[str, str]]], may_be_unseen: bool = False
) -> Iterator[_Triplet]:
    ids: set[str] = set()
    for where, row in lines:
        _check_new(where, row["id"], ids)
        paths = [file.parent / inside(where, row[name]) for name in ("ref_path", "left_path", "right_path")]
        if is_unjudged(row):
            continue
        votes = number(where, "votes", row["votes"], 0.0 if may_be_unseen else 1.0)
        if votes == 0:
            continue
        left, right = (number(where, name, row[name], 0.0, 1.0) for name in ("left_vote", "right_vote"))
        if abs(left + right - 1) > 1e-3:
            raise ValueError(f"{where}: left_vote and right_vote must add up to 1, got {left:g} and {right:g}.")
        imagenet = row["is_imagenet"].lower() in ("true", "1")
        group = "imagenet" if imagenet else "other"
        yield _Triplet(paths[0], paths[1], paths[2], left * votes, right * votes, group, row["split"], imagenet)


def _check_new(where: str, name: str, ids: set[str]) -> None:
    if name in ids:
        raise ValueError(f"{where}: the id {name} occurs twice.")
    ids.add(name)
