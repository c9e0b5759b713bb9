"""The rows of the tables into which the votes of a study are written, and the names of the pictures that they are about."""

from __future__ import annotations

from typing import Any

from dreamsim_guidance.files.names import encoded
from dreamsim_guidance.study.design import TARGET, Unit
from dreamsim_guidance.study.record import Study
from dreamsim_guidance.study.triplets import LEFT

__all__ = ["pair_rows", "picture_places", "triplet_rows"]


def picture_places(study: Study, needed: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return where each picture is written, by reference and what it shows. Triplets keep the names of their folder."""
    if study.triplets is None:
        return {key: _path(*key) for key in needed}
    rows = {row.id: row for row in study.triplets.rows}
    sources = {
        (id, shows): rows[id].ref_path
        if shows == TARGET
        else rows[id].left_path
        if shows == LEFT
        else rows[id].right_path
        for id, shows in needed
    }
    names: dict[str, str] = {}
    for source in sorted(set(sources.values())):  # the pictures of a page are PNG files
        name = source if source.lower().endswith(".png") else f"{source}.png"
        while name in names.values():
            name = f"{name}.png"
        names[source] = name
    return {key: names[source] for key, source in sources.items()}


def _path(stem: str, shows: str) -> str:
    stem = encoded(stem)
    return f"targets/{stem}.png" if shows == TARGET else f"methods/{shows}/{stem}.png"


def triplet_rows(
    study: Study, counted: dict[Unit, list[int]], places: dict[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Return the rows of data.csv, in NIGHTS' layout with shares of votes and the two methods."""
    known = {row.id: row for row in study.triplets.rows} if study.triplets else {}
    rows = []
    for i, ((stem, first, second), (left, right)) in enumerate(counted.items()):
        triplet = known.get(stem)
        rows.append(
            {
                "id": triplet.id if triplet else i,
                "left_vote": left / (left + right),
                "right_vote": right / (left + right),
                "votes": left + right,
                "ref_path": places[stem, TARGET],
                "left_path": places[stem, first],
                "right_path": places[stem, second],
                "split": (triplet.split if triplet else "") or "test",
                "is_imagenet": triplet.is_imagenet if triplet else False,
                "prompt": triplet.prompt if triplet else "",
                "left_method": first,
                "right_method": second,
            }
        )
    return rows


def pair_rows(study: Study, counted: dict[Unit, list[int]], places: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Return the rows of jnd_votes.csv, with the method."""
    known = {row.id: row for row in study.triplets.rows} if study.triplets else {}
    return [
        {
            "id": i,
            "ref_path": places[stem, TARGET],
            "distort_path": places[stem, name],
            "same": same / (same + different),
            "votes": same + different,
            "split": (known[stem].split if stem in known else "") or "test",
            "method": name,
            **({"triplet": stem} if stem in known else {}),
        }
        for i, ((stem, name, _), (same, different)) in enumerate(counted.items())
    ]
