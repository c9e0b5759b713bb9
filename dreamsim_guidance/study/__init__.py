"""Studies of how people judge pictures: a web page that collects votes, votes as judgments, rounds of votes on triplets."""

from dreamsim_guidance.study.exporter import Made, make_study
from dreamsim_guidance.study.page import Page
from dreamsim_guidance.study.reader import Outcome, read_study
from dreamsim_guidance.study.record import Study, read_record
from dreamsim_guidance.study.round_rule import PastRound, Round
from dreamsim_guidance.study.rounds import MadeRound, NextRound, make_round, next_round
from dreamsim_guidance.study.simulated_votes import chance_of_left, simulate_votes
from dreamsim_guidance.study.triplets import Standing, TripletFolder

__all__ = [
    "Made",
    "MadeRound",
    "NextRound",
    "Outcome",
    "Page",
    "PastRound",
    "Round",
    "Standing",
    "Study",
    "TripletFolder",
    "chance_of_left",
    "make_round",
    "make_study",
    "next_round",
    "read_record",
    "read_study",
    "simulate_votes",
]
