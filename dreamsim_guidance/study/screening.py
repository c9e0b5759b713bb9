"""Screening: people are kept or left out by fixed rules, before their votes are counted.

catch         share of the answered catch trials that are correct; a person below `least_catch`, or who answered none, is left
              out
consistency   share of the repeated trials, of those answered both times, with the same answer (the same picture, not the same
              side); a person below `least_consistency` is left out, one without repeated trials is kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from dreamsim_guidance.study.design import Trial
from dreamsim_guidance.study.record import Study
from dreamsim_guidance.study.votes import Session

__all__ = ["Person", "rules", "screen"]


@dataclass(frozen=True)
class Person:
    """What one person did.

    votes: number of votes that count if the person is kept.
    catch_right, catch: catch trials answered correctly, and answered.
    consistent, repeats: repeated trials answered as the first time, and answered both times.
    first_choice: share of the answers that were the first of the two (left, or same).
    why: the reason for leaving the person out; None if kept.
    """

    session: str
    participant: int
    chosen_by: str
    votes: int
    finished: bool
    catch_right: int
    catch: int
    consistent: int
    repeats: int
    first_choice: float
    median_milliseconds: float
    why: str | None

    @property
    def kept(self) -> bool:
        return self.why is None


def rules(study: Study, least_catch: float, least_consistency: float) -> dict[str, str]:
    """Return the rules in words. Raises ValueError for shares outside [0, 1]."""
    for name, share in {"least_catch": least_catch, "least_consistency": least_consistency}.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be a share between 0 and 1, got {share}.")
    has_catch = any(trial.kind == "catch" for trial in study.trials.values())
    return {
        "catch": f"At least {least_catch:.0%} of the catch trials answered right; people who answered none are left out."
        if has_catch
        else "The study has no catch trials, so they exclude no one.",
        "consistency": f"At least {least_consistency:.0%} of the repeated trials answered as the first time; people without "
        "repeated trials are kept.",
        "repeats": "The second answer to a repeated trial does not count as a vote.",
        "twice": "Files of one session belong to one person; if they differ, the later answer to a trial counts.",
    }


def screen(
    study: Study, sessions: Sequence[Session], least_catch: float = 0.8, least_consistency: float = 0.0
) -> list[Person]:
    """Return a `Person` for each session, in order. Raises ValueError for shares outside [0, 1]."""
    rules(study, least_catch, least_consistency)
    return [_person(study, session, least_catch, least_consistency) for session in sessions]


def _person(study: Study, session: Session, least_catch: float, least_consistency: float) -> Person:
    block = study.blocks[session.participant - 1]
    trials = {trial.id: trial for trial in block}
    answered = [trials[id] for id in session.votes]
    catch = [trial for trial in answered if trial.kind == "catch"]
    right = sum(session.votes[trial.id].choice == trial.answer for trial in catch)
    repeats = [trial for trial in answered if trial.kind == "repeat" and trial.repeats in session.votes]
    consistent = sum(_same(study, session, trials[trial.repeats or ""], trial) for trial in repeats)
    why = None
    if any(trial.kind == "catch" for trial in block) and not catch:
        why = "answered no catch trial"
    elif catch and right / len(catch) < least_catch:
        why = f"{right} of {len(catch)} catch trials right, {least_catch:.0%} needed"
    elif repeats and consistent / len(repeats) < least_consistency:
        why = f"{consistent} of {len(repeats)} repeated trials as before, {least_consistency:.0%} needed"
    votes = session.votes.values()
    return Person(
        session=session.id,
        participant=session.participant,
        chosen_by=session.chosen_by,
        votes=sum(trial.kind == "pair" for trial in answered),
        finished=len(answered) == len(block),
        catch_right=right,
        catch=len(catch),
        consistent=consistent,
        repeats=len(repeats),
        first_choice=sum(vote.choice == study.choices[0] for vote in votes) / len(votes),
        median_milliseconds=median(vote.milliseconds for vote in votes),
        why=why,
    )


def _same(study: Study, session: Session, first: Trial, again: Trial) -> bool:
    before, now = session.votes[first.id].choice, session.votes[again.id].choice
    return before == now if study.mode == "jnd" else before != now  # the sides are swapped
