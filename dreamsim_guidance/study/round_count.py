"""Count the votes of a round: which triplets stay in, and whether another round follows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from dreamsim_guidance.study.reader import Outcome
from dreamsim_guidance.study.record import Study
from dreamsim_guidance.study.round_rule import PastRound, Round
from dreamsim_guidance.study.triplets import LEFT, RIGHT, Standing, TripletFolder

__all__ = ["count_round", "next_number"]


def count_round(record: Study, rule: Round, source: TripletFolder, outcome: Outcome) -> tuple[TripletFolder, PastRound]:
    """Return the triplets with the votes of a round added, and the round's counts.

    Triplets on which people disagree now are marked as dropped.
    """
    numbers = {person.participant for person in outcome.people}
    shown: dict[str, set[int]] = {}
    for trial in record.trials.values():
        if trial.kind == "pair":
            shown.setdefault(trial.reference, set()).add(trial.participant)
    rows, without = [], 0
    for row in source.rows:
        left, right = outcome.counted.get((row.id, LEFT, RIGHT), (0, 0))
        without += row.id in shown and left + right == 0
        seen = tuple(sorted({*row.shown, *(shown.get(row.id, set()) & numbers)})) if rule.people == "same" else ()
        new = replace(row, left=row.left + left, right=row.right + right, shown=seen)
        rows.append(replace(new, dropped=rule.number) if row.dropped == 0 and not new.unanimous else new)
    counts = {"/".join(unit): votes for unit, votes in outcome.counted.items()}
    past = PastRound(
        number=rule.number,
        study=record.id,
        votes_digest=hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest(),
        asked=len(shown),
        votes=outcome.votes,
        people=len(outcome.people),
        left_out=sum(not person.kept for person in outcome.people),
        numbers=tuple(sorted(numbers)),
        unanimous=sum(row.dropped == 0 for row in rows),
        dropped=sum(row.dropped == rule.number for row in rows),
        without_votes=without,
    )
    return TripletFolder(source.folder, tuple(rows)), past


def next_number(rule: Round, rows: Sequence[Standing]) -> int | None:
    """Return the number of the next round in which a triplet lacks votes; None if there is none."""
    fewest = min((row.votes for row in rows), default=rule.rounds * rule.votes)
    return next((n for n in range(rule.number + 1, rule.rounds + 1) if fewest < n * rule.votes), None)
