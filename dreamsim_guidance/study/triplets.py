"""A folder of triplets that people are to judge, in NIGHTS' layout: pictures, and `data.csv` with a row for each triplet.

Needed columns: id, ref_path, left_path, right_path; paths are relative to the folder. The columns split, is_imagenet and prompt
are passed on to the judgments if they are there. Votes that the table holds already are not counted.

In a study of triplets, the two pictures that are compared are called after their columns: `LEFT` and `RIGHT`. On which side
of the page a picture is shown is another matter, see `design.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dreamsim_guidance.data.judgments import take_stock
from dreamsim_guidance.data.readers.table import inside, read_table
from dreamsim_guidance.data.reconstructions import Reconstructions

__all__ = ["LEFT", "RIGHT", "Standing", "TripletFolder", "as_reconstructions", "read_triplets", "select", "stamp"]

LEFT = "left_path"
RIGHT = "right_path"

_NEEDED = ("id", "ref_path", LEFT, RIGHT)
_OPTIONAL = ("split", "is_imagenet", "prompt")


@dataclass(frozen=True)
class Standing:
    """A triplet and where it stands: how people have voted on it in the earlier rounds of a study.

    id: as in data.csv.
    ref_path, left_path, right_path: relative to the folder of the triplets.
    split, is_imagenet, prompt: as in data.csv.
    left, right: how many people found the picture of `left_path`, of `right_path`, more like the reference.
    dropped: the round after which the triplet was dropped because people had disagreed; 0 while it is in.
    shown: numbers of the participants to whom it was shown in earlier rounds.
    digest: of the content of its three pictures.
    """

    id: str
    ref_path: str
    left_path: str
    right_path: str
    split: str = ""
    is_imagenet: bool = False
    prompt: str = ""
    left: int = 0
    right: int = 0
    dropped: int = 0
    shown: tuple[int, ...] = ()
    digest: str = ""

    @property
    def votes(self) -> int:
        return self.left + self.right

    @property
    def unanimous(self) -> bool:
        """Whether nobody has disagreed, as is the case without any vote."""
        return min(self.left, self.right) == 0


@dataclass(frozen=True)
class TripletFolder:
    """The triplets of a study, all of them, and the folder with their pictures."""

    folder: str
    rows: tuple[Standing, ...]

    def files(self, row: Standing) -> tuple[Path, Path, Path]:
        """Return the reference, the left and the right picture of a row."""
        root = Path(self.folder)
        return root / row.ref_path, root / row.left_path, root / row.right_path


def read_triplets(folder: Path | str) -> TripletFolder:
    """Read the triplets of a folder with `data.csv`, or of a csv file with the same columns.

    Raises FileNotFoundError for a missing table or picture; ValueError for a missing column, a path that leaves the folder, an
    id that occurs twice or is empty, a triplet that shows one picture twice or occurs twice, and a table without rows.
    """
    file = Path(folder)
    file = file / "data.csv" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(
            f"no triplets at '{folder}': '{file}' is missing; give a folder with data.csv (id, ref_path, left_path, "
            "right_path), or the folders of methods after the folder of references."
        )
    rows: list[Standing] = []
    places: dict[str, str] = {}
    for where, row in read_table(file, _NEEDED, _OPTIONAL):
        paths = [PurePosixPath(inside(where, row[name])).as_posix() for name in ("ref_path", LEFT, RIGHT)]
        if len(set(paths)) < 3:
            raise ValueError(f"{where}: the triplet shows one picture twice; it needs a reference and two candidates.")
        if not row["id"]:
            raise ValueError(f"{where}: the id is missing.")
        triplet = f"{paths[0]}\n{min(paths[1:])}\n{max(paths[1:])}"
        for what, key in (("id " + row["id"], "id " + row["id"]), ("triplet", triplet)):
            if key in places:
                raise ValueError(f"{where}: the {what} occurs twice; first in {places[key]}.")
            places[key] = where
        imagenet = row["is_imagenet"].lower() in ("true", "1")
        rows.append(Standing(row["id"], paths[0], paths[1], paths[2], row["split"], imagenet, row["prompt"]))
    if not rows:
        raise ValueError(f"'{file}' holds no triplets.")
    root = file.absolute().parent
    columns = [[root / getattr(row, name) for row in rows] for name in ("ref_path", LEFT, RIGHT)]
    take_stock(file, *columns)
    return TripletFolder(str(root), tuple(rows))


def select(triplets: TripletFolder, ids: Collection[str]) -> TripletFolder:
    """Return the triplets with these ids, in the order of the folder. Raises ValueError for an id that is not there."""
    chosen = set(ids)
    if unknown := sorted(chosen - {row.id for row in triplets.rows}):
        raise ValueError(f"{len(unknown)} ids are not in '{triplets.folder}', the first: '{unknown[0]}'.")
    if not chosen:
        raise ValueError("no ids were given, so there is nothing to ask.")
    return TripletFolder(triplets.folder, tuple(row for row in triplets.rows if row.id in chosen))


def as_reconstructions(triplets: TripletFolder, rows: Sequence[Standing]) -> Reconstructions:
    """Return rows as references with two reconstructions, called `LEFT` and `RIGHT`, each by the id of its triplet."""
    files = {row.id: triplets.files(row) for row in rows}
    return Reconstructions(
        targets={id: paths[0] for id, paths in files.items()},
        methods={name: {id: paths[i] for id, paths in files.items()} for i, name in ((1, LEFT), (2, RIGHT))},
        missing={},
    )


def stamp(triplets: TripletFolder, rows: Sequence[Standing]) -> tuple[Standing, ...]:
    """Return the rows with the digests of their pictures.

    Raises ValueError if a row has another digest already: its pictures have changed since the first round.
    """
    digests: dict[Path, bytes] = {}
    stamped = []
    for row in rows:
        for file in triplets.files(row):
            if file not in digests:
                digests[file] = hashlib.sha256(file.read_bytes()).digest()
        digest = hashlib.sha256(b"".join(digests[file] for file in triplets.files(row))).hexdigest()[:16]
        if row.digest not in ("", digest):
            raise ValueError(
                f"the pictures of the triplet '{row.id}' have changed since the first round: '{triplets.folder}'."
            )
        stamped.append(replace(row, digest=digest))
    return tuple(stamped)
