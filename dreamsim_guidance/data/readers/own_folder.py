"""A user's own data: three folders of pictures with the same file names, and a table of votes.

    ref/cat.png, a/cat.png, b/cat.png, ...
    votes.csv: name,votes_a,votes_b and, optionally, group,split

`votes_a` people found a/cat.png nearer to ref/cat.png, and `votes_b` people b/cat.png.
"""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.data.judgments import Judgments, Triplet, choose, gather
from dreamsim_guidance.data.readers.table import inside, number, read_table

__all__ = ["read_own_folder"]


def read_own_folder(root: Path | str, split: str | None = None, least_votes: int | None = None) -> Judgments:
    """Read the judgments of `votes.csv` in `root`, or of a csv file with the folders ref, a and b beside it.

    Raises FileNotFoundError for a missing csv or picture, ValueError for a missing column, votes that are negative,
    a triplet without a vote, a name that occurs twice or leaves the folder, and a split without triplets.
    """
    file = Path(root)
    file = file / "votes.csv" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"judgments not found: '{file}'; give the folder with votes.csv, ref, a and b.")
    names: set[str] = set()
    rows = []
    for where, row in read_table(file, ("name", "votes_a", "votes_b"), ("group", "split")):
        name = inside(where, row["name"])
        if name in names:
            raise ValueError(f"{where}: the name {name} occurs twice; add up its votes.")
        names.add(name)
        votes = [number(where, column, row[column], 0.0) for column in ("votes_a", "votes_b")]
        if sum(votes) == 0:
            raise ValueError(f"{where}: {name} has no vote; leave such lines out.")
        paths = [file.parent / folder / name for folder in ("ref", "a", "b")]
        rows.append(Triplet(paths[0], paths[1], paths[2], votes[0], votes[1], row["group"], row["split"]))
    return gather(choose(rows, file, split, least_votes or 1), file)
