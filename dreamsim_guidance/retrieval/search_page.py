"""The result of a search as an HTML page and as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from PIL import Image as PILImage

from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.files.names import printable
from dreamsim_guidance.retrieval.pages import facts, figure, grid, page
from dreamsim_guidance.retrieval.search import Match
from dreamsim_guidance.retrieval.thumbnails import placeholder, thumbnails

__all__ = ["Result", "search_page", "search_sheet", "sheet_endings"]

_COLUMNS = 8


@dataclass(frozen=True)
class Result:
    """What was searched for, and what was found.

    matches: as `search` returns them. queries, unlike: the thumbnails of the queries and of the unwanted pictures by name; None
    for one that is missing. facts: what the page says about the search, by name.
    """

    matches: Sequence[Match]
    queries: Mapping[str, PILImage.Image | None] = field(default_factory=dict)
    unlike: Mapping[str, PILImage.Image | None] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def search_page(result: Result) -> str:
    """Return the page: the queries, and the matches with their distances, copies and links to files on this machine."""
    return page("Search", _sections(result))


def _sections(result: Result) -> Iterable[str]:
    yield facts(result.facts)
    for title, pictures in (("More like", result.queries), ("Less like", result.unlike)):
        if pictures:
            yield f"<h2>{escape(title)}</h2>"
            yield grid(figure(name, picture, []) for name, picture in pictures.items())
    yield f"<h2>{len(result.matches)} nearest pictures</h2>"
    pictures = thumbnails(match.path for match in result.matches)
    yield grid(
        figure(match.path, pictures[match.path], _captions(rank, match, bool(result.unlike)))
        for rank, match in enumerate(result.matches, 1)
    )


def _captions(rank: int, match: Match, scored: bool) -> list[str]:
    captions = [f"{rank}. distance {match.distance:.4f}"]
    if scored:
        captions.append(f"score {match.score:.4f}")
    if match.copies:
        captions.append(f"and {len(match.copies)} {'copy' if len(match.copies) == 1 else 'copies'}")
        captions += [printable(path) for path in match.copies[:3]]
    return captions


def sheet_endings() -> frozenset[str]:
    """The endings of the files to which a sheet can be saved."""
    return frozenset(ending for ending, kind in PILImage.registered_extensions().items() if kind in PILImage.SAVE)


def search_sheet(result: Result) -> PILImage.Image:
    """Return one picture: the queries in the first row, below them the matches in reading order with their distances."""
    missing = placeholder()
    rows: dict[str, list[PILImage.Image]] = {}
    notes: dict[str, list[str]] = {}
    for title, queries in (("query", result.queries), ("less like", result.unlike)):
        if queries:
            rows[title] = [picture or missing for picture in list(queries.values())[:_COLUMNS]]
    pictures = thumbnails(match.path for match in result.matches)
    for first in range(0, len(result.matches), _COLUMNS):
        part = result.matches[first : first + _COLUMNS]
        name = f"{first + 1}-{first + len(part)}" if len(part) > 1 else f"{first + 1}"
        rows[name] = [pictures[match.path] or missing for match in part]
        notes[name] = [f"{match.distance:.4f}" for match in part]
    return contact_sheet(rows, notes)
