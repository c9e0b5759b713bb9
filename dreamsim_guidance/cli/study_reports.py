"""What the commands of `dreamsim-guidance study` print about people and rounds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamsim_guidance.study import MadeRound, Outcome

__all__ = ["between", "report_people", "report_round", "warn_of_shapes"]


def between(low: int, high: int) -> str:
    return str(high) if low == high else f"{low} to {high}"


def report_people(outcome: Outcome) -> None:
    for file in outcome.empty:
        print(f"'{file}' holds no votes", file=sys.stderr)
    for number in outcome.shared:
        print(f"participant number {number} was used by several people; each is counted", file=sys.stderr)
    for rule in outcome.rules.values():
        print(rule)
    for person in outcome.people:
        print(
            f"participant {person.participant} ({person.session[:6]}): {person.votes} votes, "
            f"catch {person.catch_right}/{person.catch}, repeats {person.consistent}/{person.repeats}, "
            f"{person.median_milliseconds / 1000:.1f} s"
            + ("" if person.finished else ", not finished")
            + ("" if person.kept else f", LEFT OUT: {person.why}")
        )


def report_round(made: MadeRound, to: Path) -> None:
    warn_of_shapes(made.other_shape, "reference", "which candidate it is")
    if made.idle:
        print(f"nothing to do for participants {', '.join(map(str, made.idle))}", file=sys.stderr)
    study = made.study
    rule = study.round
    votes = rule.votes if rule else 0
    if study.mode == "jnd":
        print(
            f"study {study.id}: {made.asked} pairs, {votes} votes each; participant numbers 1 to {study.participants}"
        )
    else:
        number, rounds = (rule.number, rule.rounds) if rule else (0, 0)
        print(
            f"study {study.id}: round {number} of {rounds}, {made.asked} triplets, up to {number * votes} votes each; "
            f"participant numbers 1 to {study.participants}"
        )
        if rule and rule.people == "same" and study.participants < rounds * votes:
            print(
                f"{study.participants} participants are too few for {rounds} rounds: a triplet is shown to {rounds * votes} "
                f"people in all, to nobody twice. Give `study next --participants {rounds * votes}` or more from round "
                f"{study.participants // votes + 1} on, or let other people take part in every round: --people new",
                file=sys.stderr,
            )
    print(f"{between(*made.answers)} answers each")
    print(f"{to / 'index.html'}: publish it with images/, and give out index.html?p=1, ?p=2, ...")
    print(f"{to / 'study.json'}: keep it private: it says which picture is which")


def warn_of_shapes(files: list[Path], target: str, what: str) -> None:
    if files:
        print(
            f"{len(files)} pictures have another aspect ratio than their {target}, by which people may recognise {what}; the "
            f"first: '{files[0]}'",
            file=sys.stderr,
        )
