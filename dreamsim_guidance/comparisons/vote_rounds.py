"""What rounds of votes select, and what they cost: simulated people with a known chance of each answer judge drawn triplets.

A person finds a nearer to the reference than b with the probability

    p = lapse / 2 + (1 - lapse) / (1 + exp((d_a - d_b) / temperature))

with d the distance in the scenes' factors. Every schedule ends with the same number of votes for each triplet that is kept, and
therefore keeps the same triplets on average: P(unanimous in k votes) = p^k + (1 - p)^k. Rounds save the votes that a schedule
in one go spends on triplets about which two people have disagreed already.

    kept             triplets whose votes are unanimous after the last round
    votes per kept   votes of all rounds, per triplet that is kept
    agreement        chance that one more person gives the answer of the set
    right answers    share of answers of the set that name the candidate with the smaller distance
    gap              mean |d_a - d_b| of the triplets in the set: kept triplets are easier
    metric           share of the triplets of the set for which a metric's decision is the set's answer

Two designs spend as many votes in one go, the median of the schedules: "majority" divides them among all triplets and keeps
each with the answer of most people (ties at random), and "unanimous" asks as many people about a triplet as all rounds together
do, about as many triplets as the votes allow, and keeps the unanimous ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["VoteRounds"]


@dataclass(frozen=True)
class VoteRounds:
    """The settings of the comparison; it needs no people and no training."""

    triplets: int = 2000
    """Drawn triplets that are judged."""
    schedules: tuple[str, ...] = ("6x1", "3x2", "2x3", "1x6")
    """Rounds x votes of each triplet in every round."""
    person: str = "all"
    """The factor that people look at above all, or all."""
    others: float = 0.5
    """Weight of the mean over all factors beside the person's own."""
    temperature: float = 0.08
    """Difference of two distances at which 73 of 100 people, lapses aside, find the smaller one."""
    lapse: float = 0.05
    """Share of the answers that are given at random."""
    metric: str = "pocket"
    """The frozen metric whose agreement is measured."""
    seeds: int = 40
    """Repetitions with other people and with other triplets, drawn from the judged ones with replacement; for the intervals."""
    seed: int = 0
    device: str | None = None
    """cpu, cuda, ...; by default the CPU."""

    def __post_init__(self) -> None:
        for name, least in (("triplets", 10), ("seeds", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not self.temperature > 0 or not 0 <= self.lapse <= 1 or not self.others >= 0:
            raise ValueError(
                "temperature must be above 0, lapse between 0 and 1 and others at least 0, got "
                f"{self.temperature}, {self.lapse} and {self.others}."
            )
        totals = set()
        for schedule in self.schedules:
            rounds, _, votes = schedule.partition("x")
            if not (rounds.isdecimal() and votes.isdecimal() and int(rounds) and int(votes)):
                raise ValueError(f"a schedule is written as ROUNDSxVOTES, such as 3x2, got '{schedule}'.")
            totals.add(int(rounds) * int(votes))
        if len(totals) != 1:
            raise ValueError(f"all schedules must end with as many votes, got {', '.join(self.schedules) or 'none'}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Simulate; write table.md and the metric's embeddings into `folder`; return all figures with their intervals."""
        from dreamsim_guidance.comparisons.vote_rounds_run import compare  # so that recipes are listed without torch

        return compare(self, folder)
