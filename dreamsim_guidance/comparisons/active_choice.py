"""Whether it pays to choose the triplets that people are asked about: votes that a head needs to reach a given agreement.

Simulated people who look at one factor above all answer questions about drawn triplets, one vote for each. A linear head on
frozen embeddings learns from the votes; which triplets are asked next is chosen in one of the ways of
`training/active_choice.py`. All ways start from the same random triplets, and get the same answer to the same triplet.

    agreement      share of held-out triplets of which the head's decision, after all votes, is that of most people
    gain           of agreement over random choice, mean over all numbers of votes
    votes needed   to reach the agreement that random choice reaches with all votes, as a share of these; 100 % also stands for
                   a way that does not reach it
    people agree   chance that a person gives the answer of most people to a triplet that was chosen
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ActiveChoice"]


@dataclass(frozen=True)
class ActiveChoice:
    """The settings of the comparison."""

    people: tuple[str, ...] = ("colour", "background", "layout")
    """The factor that people look at above all, one comparison for each."""
    others: float = 0.5
    """Weight of the mean over all factors beside the people's own."""
    temperature: float = 0.05
    """Difference of two distances at which 73 of 100 people, lapses aside, find the smaller one."""
    lapse: float = 0.05
    """Share of the answers that are given at random."""
    choices: tuple[str, ...] = ("random", "information", "disagreement", "margin")
    """Ways of choosing; the first must be random."""
    pool: int = 1500
    """Triplets among which is chosen, others for each repetition."""
    test: int = 1000
    """Held-out triplets, others for each repetition."""
    start: int = 40
    """Random triplets that are asked first."""
    batch: int = 40
    """Triplets that are chosen at once."""
    votes: int = 600
    """Votes at the end."""
    directions: int = 64
    """Principal directions of the embeddings that get a weight of their own."""
    metric: str = "pocket"
    """The frozen metric."""
    repetitions: int = 12
    """With other triplets and other answers."""
    seed: int = 0
    device: str | None = None
    """cpu, cuda, ...; by default the CPU."""

    def __post_init__(self) -> None:
        for name, least in (
            ("pool", 8),
            ("test", 2),
            ("start", 1),
            ("batch", 1),
            ("directions", 1),
            ("repetitions", 2),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if not self.start < self.votes <= self.pool:
            raise ValueError(
                f"votes must lie above start, {self.start}, and at most at the size of the pool, {self.pool}, got {self.votes}."
            )
        if not self.temperature > 0 or not 0 <= self.lapse <= 1 or not self.others >= 0:
            raise ValueError(
                "temperature must be above 0, lapse between 0 and 1 and others at least 0, got "
                f"{self.temperature}, {self.lapse} and {self.others}."
            )
        if self.choices[:1] != ("random",) or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"choices must be different ones that begin with random, got {self.choices}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Simulate; write table.md and the embeddings into `folder`; return all figures with their intervals."""
        from dreamsim_guidance.comparisons.active_choice_run import (
            compare,  # so that recipes are listed without torch
        )

        return compare(self, folder)
