"""Helpers of the tests of rounds: small rounds on a folder of six triplets, and people who agree or disagree."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

from dreamsim_guidance.study import MadeRound, NextRound, Round, Study, chance_of_left, make_round, next_round

SURE = {f"t{i}": float(i % 2) for i in range(6)}
"""People agree on every triplet: the right picture of even ones, the left picture of odd ones."""
QUICK = Round(rounds=2, votes=2, least_votes=4, catch=1, repeats=0)


def make(to: str = "round1", rule: Round = QUICK, participants: int = 6, **options: Any) -> MadeRound:
    return make_round("triplets", to, participants=participants, rule=rule, progress=False, **options)


def go_on(study: str, votes: str, to: str, **options: Any) -> NextRound:
    return next_round(study, [votes], to, progress=False, **options)


def table(file: str) -> dict[str, dict[str, str]]:
    with open(file, newline="") as opened:
        return {row["id"]: row for row in csv.DictReader(opened)}


def one_person_disagrees(study: Study, id: str) -> Callable[[Any], float]:
    """Everybody agrees, except the last participant who is shown the triplet `id`."""
    last = max(t.participant for t in study.trials.values() if t.reference == id and t.kind == "pair")

    def chance(trial: Any) -> float:
        p = chance_of_left(SURE)(trial)
        return 1 - p if trial.reference == id and trial.participant == last else p

    return chance
