"""What study.json says about a round: its rule, and the rounds before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dreamsim_guidance.study.design import Mode

__all__ = ["LEAST_VOTES", "PastRound", "People", "Round", "rules_of_round"]

LEAST_VOTES = 6
"""Unanimous votes of a triplet in the final set: the filter of the original's loader."""

People = Literal["same", "new"]


@dataclass(frozen=True)
class PastRound:
    """The counts of a round that is over.

    study: the identifier of its page.
    votes_digest: SHA-256 of the counts that were read from the files of votes.
    asked: triplets that were shown.
    votes: votes that counted.
    people, left_out: people who answered, and those of them who were left out by the rules.
    numbers: participant numbers that were used.
    unanimous, dropped: triplets that stayed in, and those on which people disagreed.
    without_votes: triplets that were shown and got no vote that counts; they stay in.
    """

    number: int
    study: str
    votes_digest: str
    asked: int
    votes: int
    people: int
    left_out: int
    numbers: tuple[int, ...]
    unanimous: int
    dropped: int
    without_votes: int


@dataclass(frozen=True)
class Round:
    """The rule of one round of a study of triplets.

    number, rounds: which round it is, from 1, and how many are planned.
    votes: that each triplet is to get in every round.
    least_votes: unanimous votes that a triplet needs to be in the final set.
    people: "same": a participant number is one person in all rounds, who is not shown a triplet again; "new": other people
        take part in every round.
    least_catch, least_consistency: who is left out, see `screening.py`.
    catch, repeats: catch and repeated trials of each participant.
    splits: shares of the references in the splits train, val and test of the final set.
    page: texts, sizes and times of the page.
    past: the rounds before this one.
    """

    number: int = 1
    rounds: int = 3
    votes: int = 2
    least_votes: int = LEAST_VOTES
    people: People = "same"
    least_catch: float = 0.8
    least_consistency: float = 0.0
    catch: int = 5
    repeats: int = 4
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1)
    page: dict[str, Any] | None = None
    past: tuple[PastRound, ...] = ()

    def __post_init__(self) -> None:
        if min(self.rounds, self.votes, self.least_votes) < 1:
            raise ValueError(
                f"rounds, votes and least_votes must be at least 1, got {self.rounds}, {self.votes} and {self.least_votes}."
            )
        if self.number > self.rounds:
            raise ValueError(f"{self.rounds} rounds are too few: this is round {self.number}.")
        if self.people not in ("same", "new"):
            raise ValueError(f"people must be 'same' or 'new', got {self.people!r}.")
        if len(self.splits) != 3 or min(self.splits) < 0 or not abs(sum(self.splits) - 1) < 1e-9:
            raise ValueError(f"splits are three shares, of train, val and test, that add up to 1, got {self.splits}.")

    def check_reachable(self) -> None:
        """Raise ValueError if no triplet can get as many votes as the final set needs."""
        if self.rounds * self.votes < self.least_votes:
            raise ValueError(
                f"{self.rounds} rounds of {self.votes} votes for each triplet give {self.rounds * self.votes} votes, and the "
                f"final set needs {self.least_votes}; plan more rounds or votes, or lower least_votes."
            )


def rules_of_round(plan: Round, mode: Mode) -> dict[str, str]:
    """Return the rules of a round in words."""
    total = plan.number * plan.votes
    screened = (
        f"People with less than {plan.least_catch:.0%} of their catch trials right, or without any, are left out."
    )
    if plan.least_consistency > 0:
        screened += (
            f" So are people who repeat less than {plan.least_consistency:.0%} of their answers to repeated trials."
        )
    if mode == "jnd":
        return {
            "votes": f"Each pair of a reference and a candidate is shown to {plan.votes} people.",
            "people left out": screened,
        }
    return {
        "round": f"Round {plan.number} of {plan.rounds}.",
        "votes": f"Each triplet that is still in is shown to as many people as it takes to bring its votes to {total}: "
        f"{plan.votes} in each round, and those that it lacks from earlier rounds.",
        "unanimity": "After the round, a triplet stays in if all of its votes in all rounds agree. One without any vote "
        "stays in and is shown again. A triplet on which two people disagree is dropped for good.",
        "final set": f"After round {plan.rounds}, the triplets with at least {plan.least_votes} votes, all of them equal, are "
        "written to data.csv.",
        "splits": "All triplets that share a picture are in one split. A split that the triplets' table states is kept; the "
        "others are drawn from the seed, with shares of {:g}, {:g} and {:g} for train, val and test.".format(
            *plan.splits
        ),
        "people left out": screened,
        "people": "A participant number is one person in all rounds; no number is shown a triplet again."
        if plan.people == "same"
        else "Other people take part in every round; a number does not stand for the same person in two rounds.",
    }
