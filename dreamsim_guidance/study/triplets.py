"""The triplets of a study: those of a folder in NIGHTS' layout, and how people have voted on each of them so far.

Votes that the folder's table holds already are not counted. In a study of triplets, the two pictures that are compared are
called after their columns: `LEFT` and `RIGHT`. On which side of the page a picture is shown is another matter, see `design.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from dreamsim_guidance.data.reconstructions import Reconstructions
from dreamsim_guidance.data.triplet_folder import read_triplet_rows

__all__ = ["LEFT", "RIGHT", "Standing", "TripletFolder", "as_reconstructions", "read_triplets", "select", "stamp"]

LEFT = "left_path"
RIGHT = "right_path"


@dataclass(frozen=True)
class Standing:
    """A triplet and where it stands: how people have voted on it in the earlier rounds of a study.

    id: as in data.csv.
    ref_path, left_path, right_path: relative to the folder of the triplets.
    split, is_imagenet, prompt, way, left_distance, right_distance: as in data.csv; the split may be empty.
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
    way: str = ""
    left_distance: float | None = None
    right_distance: float | None = None
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
    """Read the triplets of a folder with `data.csv`, or of a csv file with the same columns; see `read_triplet_rows`.

    Raises its errors, and ValueError for an empty id and a triplet that occurs twice.
    """
    file = Path(folder)
    file = file / "data.csv" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(
            f"no triplets at '{folder}': '{file}' is missing; give a folder of triplets with data.csv, or the folders of "
            "methods after the folder of references."
        )
    rows: list[Standing] = []
    ids: dict[tuple[str, frozenset[str]], str] = {}
    for row in read_triplet_rows(file):
        reference, left, right = (PurePosixPath(path).as_posix() for path in (row.reference, row.left, row.right))
        triplet = (reference, frozenset((left, right)))
        if not row.id:
            raise ValueError(f"'{file}': the triplet of '{reference}' has no id.")
        if triplet in ids:
            raise ValueError(f"'{file}': the triplets '{ids[triplet]}' and '{row.id}' show the same pictures.")
        ids[triplet] = row.id
        rows.append(
            Standing(
                row.id, reference, left, right, row.split, row.is_imagenet, row.prompt, row.way, row.left_distance,
                row.right_distance,
            )
        )  # fmt: skip
    return TripletFolder(str(file.absolute().parent), tuple(rows))


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
