"""Human judgments in one form for all data sets: a reference, two candidates, and how many people found which one nearer.

Judgments.images                 the distinct pictures, so that each is read and embedded once
Judgments.reference, .a, .b      (n,) positions in images
Judgments.votes_a, .votes_b      (n,) how many people found a, b nearer; at least one vote for each triplet
Judgments.group, .split          (n,) words; the meaning of a group depends on the set

The readers of the sets, one file each, make `Triplet`s, which `gather` turns into this form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Judgments", "Triplet", "choose", "gather", "take_stock"]


@dataclass(frozen=True)
class Judgments:
    """Triplets with votes; the top of this file describes the fields."""

    images: tuple[Path, ...]
    reference: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    votes_a: NDArray[np.float64]
    votes_b: NDArray[np.float64]
    group: tuple[str, ...]
    split: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.reference)

    def select(self, rows: ArrayLike) -> Judgments:
        """Return the triplets where the mask `rows` is True, or at the positions `rows`, with only the pictures they show."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        used, place = np.unique(np.stack([self.reference, self.a, self.b])[:, chosen], return_inverse=True)
        reference, a, b = place.reshape(3, -1)
        return Judgments(
            images=tuple(self.images[i] for i in used),
            reference=reference,
            a=a,
            b=b,
            votes_a=self.votes_a[chosen],
            votes_b=self.votes_b[chosen],
            group=tuple(self.group[i] for i in chosen),
            split=tuple(self.split[i] for i in chosen),
        )

    def sample(self, count: int, seed: int = 0) -> Judgments:
        """Return `count` triplets, drawn without replacement from `seed`, in their order; all of them if there are no more.

        Raises ValueError for a count below 1.
        """
        if count < 1:
            raise ValueError(f"a sample needs at least 1 triplet, got {count}.")
        return self.select(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))


@dataclass(frozen=True)
class Triplet:
    """One row of `Judgments`, with the files of its pictures."""

    reference: Path
    a: Path
    b: Path
    votes_a: float
    votes_b: float
    group: str = ""
    split: str = ""

    @property
    def votes(self) -> float:
        return self.votes_a + self.votes_b


def gather(triplets: Sequence[Triplet], source: Path) -> Judgments:
    """Return triplets that were read from `source` as `Judgments`. Raises FileNotFoundError if a picture is missing."""
    images, (reference, a, b) = take_stock(
        source, [t.reference for t in triplets], [t.a for t in triplets], [t.b for t in triplets]
    )
    return Judgments(
        images=images,
        reference=reference,
        a=a,
        b=b,
        votes_a=np.array([t.votes_a for t in triplets], dtype=np.float64),
        votes_b=np.array([t.votes_b for t in triplets], dtype=np.float64),
        group=tuple(t.group for t in triplets),
        split=tuple(t.split for t in triplets),
    )


def take_stock(source: Path, *columns: Sequence[Path]) -> tuple[tuple[Path, ...], list[NDArray[np.int64]]]:
    """Return the distinct files of several columns of files, and each column as positions among them.

    Raises FileNotFoundError, with their number and the first one, if files are missing.
    """
    images = tuple(dict.fromkeys(file for row in zip(*columns, strict=True) for file in row))
    if missing := [file for file in images if not file.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} of {len(images)} pictures of '{source}' are missing, the first: '{missing[0]}'."
        )
    place = {file: i for i, file in enumerate(images)}
    return images, [np.array([place[file] for file in column], dtype=np.int64) for column in columns]


@runtime_checkable
class _Row(Protocol):
    @property
    def split(self) -> str: ...
    @property
    def votes(self) -> float: ...


Row = TypeVar("Row", bound=_Row)


def choose(
    rows: Sequence[Row],
    source: Path,
    split: str | None = None,
    least_votes: int = 1,
    is_in: Callable[[Row], bool] | None = None,
) -> list[Row]:
    """Return the rows of a split that have enough votes.

    split: None, the default, takes all rows.
    least_votes: by default 1.
    is_in: whether a row belongs to the split; by default, whether its split has that name.

    Raises ValueError, which lists the splits of the set, if no row is left.
    """
    belongs = is_in or (lambda row: row.split == split)
    chosen = [row for row in rows if row.votes >= least_votes and (split is None or belongs(row))]
    if not chosen:
        splits = ", ".join(sorted({row.split for row in rows} - {""})) or "none"
        condition = " ".join(
            ([f"of split {split!r}"] if split is not None else [])
            + ([f"with at least {least_votes} votes"] if least_votes > 1 else [])
        )
        raise ValueError(f"'{source}' has no judgments {condition or 'at all'}, of {len(rows)}; its splits: {splits}.")
    return chosen
