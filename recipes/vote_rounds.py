"""Rounds of votes and the choice of what to ask, with simulated people."""

from __future__ import annotations

from dreamsim_guidance.comparisons.vote_rounds import VoteRounds
from dreamsim_guidance.experiment.registry import recipe


@recipe
def compare_vote_rounds() -> VoteRounds:
    """Compare schedules of rounds until six unanimous votes, and as many votes in one go, with simulated people."""
    return VoteRounds()


@recipe
def compare_vote_rounds_tiny() -> VoteRounds:
    """Compare two schedules on a few triplets in seconds, for tests and to see what a run folder holds."""
    return VoteRounds(triplets=40, schedules=("3x2", "1x6"), seeds=4)
