"""Near-duplicates among the pictures of an index: groups, what to keep of each, a summary and a page.

Up to `EXACT_UP_TO` pictures all pairs are compared. Beyond, each picture is compared with the nearest neighbours that an
approximate index finds, which may miss pairs; the summary says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dreamsim_guidance.files.names import printable
from dreamsim_guidance.retrieval.matrix import nearest_neighbours
from dreamsim_guidance.retrieval.near_duplicates import (
    Edges,
    Group,
    Linkage,
    Suggestion,
    near_duplicate_groups,
    suggest_threshold,
)
from dreamsim_guidance.retrieval.neighbours import LEAST_ROWS, neighbours_of_rows, up_to_date
from dreamsim_guidance.retrieval.pages import facts, figure, grid, page
from dreamsim_guidance.retrieval.thumbnails import thumbnails

if TYPE_CHECKING:
    from dreamsim_guidance.retrieval.index import Index

__all__ = [
    "EXACT_UP_TO",
    "DuplicateGroups",
    "Keep",
    "PictureGroup",
    "PictureOfGroup",
    "duplicates_page",
    "find_duplicates",
]

Keep = Literal["largest", "first"]

EXACT_UP_TO = 50_000
"""Pictures of which all pairs are compared unless it is told otherwise: minutes at 50,000, growing with their square."""

_NEIGHBOURS = 32
"""Neighbours of each picture that an approximate index is asked for."""
_SAMPLE = 5_000
"""Pictures whose nearest neighbours are looked at to suggest a threshold, for larger collections."""
_CHUNK = 2048
"""Pictures whose pairs are compared at a time."""
_SHOWN = 200
"""Groups on the page; the JSON has all."""


@dataclass(frozen=True)
class PictureOfGroup:
    """A picture of a group. distance: to the one that is kept. is_copy: whether its content is that of the one that is kept."""

    path: str
    distance: float
    is_copy: bool
    width: int
    height: int
    bytes: int


@dataclass(frozen=True)
class PictureGroup:
    """Near-duplicates, the one to keep first and the others by distance. diameter: the largest distance of any two."""

    pictures: tuple[PictureOfGroup, ...]
    diameter: float


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of near-duplicates, the largest first, and how they were found.

    pairs: pairs of different vectors within the threshold. separated: those of them that complete linkage put into different
        groups.
    exact: whether all pairs were compared. suggestion: where the threshold comes from, if none was given.
    """

    groups: tuple[PictureGroup, ...]
    threshold: float
    linkage: Linkage
    keep: Keep
    count: int
    pairs: int
    separated: int
    exact: bool
    suggestion: Suggestion | None

    @property
    def summary(self) -> str:
        """What was found, in a few sentences."""
        extra = [picture for group in self.groups for picture in group.pictures[1:]]
        lines = [
            f"{len(self.groups):,} groups within {self.threshold:.4g} among {self.count:,} pictures; keeping one of each would "
            f"spare {len(extra):,} pictures, {sum(picture.bytes for picture in extra) / 1e6:.1f} MB. Nothing was deleted."
        ]
        if self.separated:
            lines.append(
                f"{self.separated:,} pairs within the threshold are not in one group, because not all pictures around "
                "them are; linkage single joins them."
            )
        if self.linkage == "single":
            lines.append("A group may hold pictures that are farther apart than the threshold: look at its diameter.")
        if not self.exact:
            lines.append("The pairs come from an approximate index, which may miss some.")
        return "\n".join(lines)

    def described(self) -> dict[str, Any]:
        """The content as plain data, for JSON."""
        groups = [
            {
                "diameter": group.diameter,
                "keep": group.pictures[0].path,
                "pictures": [asdict(picture) for picture in group.pictures],
            }
            for group in self.groups
        ]
        names = ("threshold", "linkage", "count", "pairs", "separated", "exact")
        suggestion = None if self.suggestion is None else asdict(self.suggestion)
        return {**{name: getattr(self, name) for name in names}, "suggestion": suggestion, "groups": groups}


def find_duplicates(
    index: Index,
    threshold: float | None = None,
    linkage: Linkage = "complete",
    keep: Keep = "largest",
    exact_up_to: int = EXACT_UP_TO,
    tell: Callable[[str], object] = lambda message: None,
) -> DuplicateGroups:
    """Find the near-duplicates among the pictures of an index.

    threshold: largest distance, in [0, 2]; by default suggested, see `near_duplicates.suggest_threshold`.
    linkage: see `near_duplicate_groups`. keep: "largest" puts the picture with the most pixels first in its group, of equal
        ones that with the most bytes; "first" the first by name.
    exact_up_to: pictures up to which all pairs are compared. tell: is called with messages on the progress.

    Raises ValueError as `near_duplicate_groups`, OSError if an approximate index cannot be written.
    """
    if keep not in ("largest", "first"):
        raise ValueError(f"unknown picture to keep '{keep}'; known: largest, first.")
    vectors = index.vectors()
    suggestion = None
    if threshold is None:
        suggestion = _suggested(vectors)
        threshold = suggestion.threshold
        tell(_explained(suggestion))
    exact = len(vectors) <= max(exact_up_to, LEAST_ROWS)
    if not exact:
        up_to_date(index.table, tell)
    pairs = None if exact else _candidates(index, vectors, tell)
    result = near_duplicate_groups(vectors, threshold, linkage, pairs)
    groups = tuple(_group(index, vectors, group, keep) for group in result.groups)
    return DuplicateGroups(
        groups, threshold, linkage, keep, len(vectors), result.pairs, result.separated, exact, suggestion
    )


def _suggested(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> Suggestion:
    if len(vectors) < 2:
        return Suggestion(0.0, False, {})
    if len(vectors) <= _SAMPLE:
        return suggest_threshold(nearest_neighbours(vectors)[1])
    sample = np.random.default_rng(0).choice(len(vectors), _SAMPLE, replace=False)
    return suggest_threshold(nearest_neighbours(vectors, sample)[1])


def _explained(suggestion: Suggestion) -> str:
    quantiles = ", ".join(f"{percent} %: {value:.4g}" for percent, value in suggestion.quantiles.items())
    reason = (
        "it lies in the widest gap below their median"
        if suggestion.gap
        else "they have no gap, and it is their 1 % quantile, which says little: choose one with --threshold"
    )
    return f"distances to the nearest neighbour: {quantiles or 'none'}. Threshold {suggestion.threshold:.4g}: {reason}."


def _candidates(
    index: Index, vectors: np.ndarray[Any, np.dtype[np.float32]], tell: Callable[[str], object]
) -> Iterator[Edges]:
    """Each pair of neighbours that the approximate index finds, once."""
    neighbours = np.full((len(vectors), _NEIGHBOURS), -1, np.int32)
    for first, rows in neighbours_of_rows(index.table, vectors, _NEIGHBOURS, tell):
        for row, nearest in enumerate(rows, first):
            neighbours[row, : len(nearest)] = nearest
    for first in range(0, len(vectors), _CHUNK):
        part = neighbours[first : first + _CHUNK]
        left = np.repeat(np.arange(first, first + len(part)), _NEIGHBOURS)
        right = part.ravel().astype(np.int64)
        # from the higher row only if the lower one does not have the pair
        repeated = (right < left) & (neighbours[right] == left[:, None]).any(1)
        new = (right >= 0) & (right != left) & ~repeated
        yield left[new], right[new]


def _group(index: Index, vectors: np.ndarray[Any, np.dtype[np.float32]], group: Group, keep: Keep) -> PictureGroup:
    columns = {name: index.column(name) for name in ("path", "digest", "width", "height", "bytes")}

    def rank(row: int) -> tuple[int, int, str]:
        size = (
            (-columns["width"][row] * columns["height"][row], -columns["bytes"][row]) if keep == "largest" else (0, 0)
        )
        return (*size, columns["path"][row])

    first, *others = sorted(group.rows, key=rank)
    pictures = [
        PictureOfGroup(
            columns["path"][row],
            0.0 if row == first else float(0.5 * np.square(vectors[row].astype(np.float64) - vectors[first]).sum()),
            row != first and columns["digest"][row] == columns["digest"][first],
            columns["width"][row],
            columns["height"][row],
            columns["bytes"][row],
        )
        for row in (first, *others)
    ]
    ordered = sorted(pictures[1:], key=lambda picture: (not picture.is_copy, picture.distance, picture.path))
    return PictureGroup((pictures[0], *ordered), group.diameter)


def duplicates_page(result: DuplicateGroups) -> str:
    """Return a self-contained page of the groups, the picture to keep framed."""
    return page("Near-duplicates", _sections(result))


def _sections(result: DuplicateGroups) -> Iterator[str]:
    from html import escape

    yield facts(
        {"pictures": f"{result.count:,}", "groups": f"{len(result.groups):,}", "threshold": f"{result.threshold:.4g}"}
    )
    yield from (f"<p class=note>{escape(line)}</p>" for line in result.summary.splitlines())
    shown = result.groups[:_SHOWN]
    if len(shown) < len(result.groups):
        yield f"<p class=note>The {_SHOWN} largest groups follow; the JSON has all.</p>"
    pictures = thumbnails(picture.path for group in shown for picture in group.pictures)
    for number, group in enumerate(shown, 1):
        yield f"<h2>{number}. {len(group.pictures)} pictures, at most {group.diameter:.4g} apart</h2>"
        yield grid(
            figure(picture.path, pictures[picture.path], _captions(picture, picture is group.pictures[0]), kind)
            for picture in group.pictures
            for kind in ["keep" if picture is group.pictures[0] else ""]
        )


def _captions(picture: PictureOfGroup, is_first: bool) -> list[str]:
    role = "keep" if is_first else "copy" if picture.is_copy else f"distance {picture.distance:.4g}"
    return [role, f"{picture.width} x {picture.height}, {picture.bytes:,} bytes", printable(picture.path)]
