"""The set that the rounds of a study of triplets lead to, in NIGHTS' layout.

data.csv         the triplets on which people agreed, with at least as many votes as the rule asks for: `left_vote` and
                 `right_vote` are 1 and 0, or 0 and 1, and `votes` is the number of people who all gave this answer
nights_raw.csv   all triplets that were asked about, with the shares of their votes, as NIGHTS' table before its filter
report.json      the rules, and the counts of each round

The pictures are copies of the files in the triplets' folder, under the same names. Nothing in the set says who voted: it
contains numbers of votes, and no participant number, session or time.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.data.triplet_folder import SHARES, TripletRow, split_of, write_triplet_rows
from dreamsim_guidance.files.atomic import new_folder, write_json
from dreamsim_guidance.study.round_rule import Round, rules_of_round
from dreamsim_guidance.study.triplets import Standing, TripletFolder

__all__ = ["FinalSet", "splits_of", "write_final_set"]

_PRIVATE = ("numbers", "votes_digest")
"""What the counts of a round say in study.json, and not in the set."""


@dataclass(frozen=True)
class FinalSet:
    """All triplets of a study after its last round, the rule with the counts of all rounds, and the seed of the splits."""

    rows: tuple[Standing, ...]
    rule: Round
    seed: int

    @property
    def kept(self) -> list[Standing]:
        return [row for row in self.rows if row.dropped == 0 and row.votes >= self.rule.least_votes]

    @property
    def id(self) -> str:
        """Twelve hex digits that identify the votes, the rules and the pictures."""
        return hashlib.sha256(repr((self.rows, self.rule, self.seed)).encode(errors="surrogateescape")).hexdigest()[:12]


def write_final_set(final: FinalSet, source: TripletFolder, to: Path) -> None:
    """Write the set to the folder `to`, which appears whole or not at all.

    source: the folder of the pictures. Raises FileNotFoundError for a missing picture, OSError if `to` cannot be written.
    """
    splits = splits_of(final.rows, final.rule.splits, final.seed)
    rows = {row.id: _row(row, splits[row.id]) for row in final.rows if row.votes}
    with new_folder(to) as folder:
        for path in sorted({path for row in rows.values() for path in (row.reference, row.left, row.right)}):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(source.folder) / path, place)
        write_triplet_rows(folder, list(rows.values())).rename(folder / "nights_raw.csv")
        write_triplet_rows(folder, [rows[row.id] for row in final.kept])
        write_json(folder / "report.json", _report(final))


def splits_of(rows: tuple[Standing, ...], shares: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Return the split of each triplet by its id: all triplets that share a picture are in one.

    A split that a row states is kept, and holds for the rows without one that share a picture with it. Those of the other
    groups are drawn by `split_of`, with `shares` for train, val and test. The split of a triplet does not depend on votes.
    """
    group = _groups(rows)
    stated = {group[row.id]: row.split for row in reversed(rows) if row.split}
    parts = dict(zip(SHARES, shares, strict=True))
    return {row.id: row.split or stated.get(group[row.id]) or split_of(group[row.id], seed, parts) for row in rows}


def _groups(rows: tuple[Standing, ...]) -> dict[str, str]:
    """The name of each triplet's group by its id; triplets that share a picture, directly or through others, have one.

    A group is called after the first in order of its pictures' paths.
    """
    above: dict[str, str] = {}

    def root(path: str) -> str:
        while (higher := above.setdefault(path, path)) != path:
            above[path] = above[higher]
            path = higher
        return path

    for row in rows:
        first, *others = sorted(root(path) for path in (row.ref_path, row.left_path, row.right_path))
        above.update(dict.fromkeys(others, first))
    return {row.id: root(row.ref_path) for row in rows}


def _row(row: Standing, split: str) -> TripletRow:
    shares = (row.left / row.votes, row.right / row.votes)
    paths = (row.ref_path, row.left_path, row.right_path)
    distances = (row.left_distance, row.right_distance)
    return TripletRow(row.id, *paths, split, row.is_imagenet, row.prompt, row.votes, *shares, row.way, *distances)


def _report(final: FinalSet) -> dict[str, Any]:
    past = [{name: value for name, value in asdict(round).items() if name not in _PRIVATE} for round in final.rule.past]
    unanimous = [row for row in final.rows if row.dropped == 0]
    return {
        "format": "dreamsim_guidance set of unanimous votes 1",
        "id": final.id,
        "triplets": len(final.rows),
        "kept": len(final.kept),
        "unanimous_with_too_few_votes": len(unanimous) - len(final.kept),
        "dropped": len(final.rows) - len(unanimous),
        "votes": sum(row.votes for row in final.rows),
        "seed": final.seed,
        "rules": rules_of_round(final.rule, "2afc"),
        "rounds": past,
    }
