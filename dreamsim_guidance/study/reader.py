"""Turn the votes of many people into human judgments that the readers of this library understand.

2afc   data.csv in NIGHTS' layout with shares of votes, and two more columns: left_method, right_method
jnd    jnd_votes.csv as `read_nights_jnd` reads it, and one more column: method

Beside the table are written targets/ and methods/NAME/ with the pictures as people saw them, and report.json with the rules of
screening, the people, and who was left out. In file names, bytes that are not UTF-8 are percent-encoded.
"""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dreamsim_guidance.files.atomic import new_folder, write_json
from dreamsim_guidance.study.design import TARGET, Unit
from dreamsim_guidance.study.folder import check_free
from dreamsim_guidance.study.judgment_tables import pair_rows, picture_places, triplet_rows
from dreamsim_guidance.study.record import Study, read_record
from dreamsim_guidance.study.screening import Person, rules, screen
from dreamsim_guidance.study.votes import Session, read_votes

__all__ = ["Outcome", "count_votes", "read_study", "tally", "write_outcome"]


@dataclass(frozen=True)
class Exposure:
    """How long pictures were on the screen in a JND study, in milliseconds, as the page measured it in frames of the display.

    wanted: what the study asks for.
    median, least, most: of all presentations.
    mistimed: votes that do not count because a picture was shown for too long or too short a time.
    """

    wanted: int
    median: float
    least: float
    most: float
    mistimed: int


@dataclass(frozen=True)
class Outcome:
    """The result of a study.

    people: all of them, also those left out.
    votes, judged: number of votes of the people kept, and of the triplets or pairs that they are about.
    empty: files without a vote.
    shared: participant numbers that several people used.
    counted: votes by unit: for the first and the second method (2AFC), or "same" and "different" (JND).
    rules: who was left out, in words.
    exposure: how long the pictures of a JND study were on the screen, over all votes of the people kept; None if not known.
    """

    study: Study
    people: list[Person]
    votes: int
    judged: int
    empty: list[Path]
    shared: list[int]
    counted: dict[Unit, list[int]]
    rules: dict[str, str]
    exposure: Exposure | None = None


def read_study(
    folder: Path | str,
    votes: Sequence[Path | str],
    to: Path | str,
    *,
    least_catch: float | None = None,
    least_consistency: float | None = None,
    exposure_tolerance: float | None = None,
) -> Outcome:
    """Read the votes on the study in `folder`, leave out people who did not pay attention, and write the judgments to `to`.

    votes: the files that people sent back, CSV or JSON, or folders of them.
    least_catch: share of the catch trials that a person must answer correctly; by default as the study of triplets states, 0.8
        for a study of methods.
    least_consistency: share of the repeated trials that a person must answer as the first time; by default as the study of
        triplets states, 0 for a study of methods.
    exposure_tolerance: in JND, leave out votes for which a picture was on the screen for a time that is off by more than so
        many milliseconds, if the page has recorded it; by default none is left out.

    This is `count_votes` followed by `write_outcome`. Raises their errors, and ValueError if `to` is not empty, before anything
    is read.
    """
    check_free(Path(to))
    outcome = count_votes(
        folder,
        votes,
        least_catch=least_catch,
        least_consistency=least_consistency,
        exposure_tolerance=exposure_tolerance,
    )
    write_outcome(outcome, folder, to)
    return outcome


def count_votes(
    folder: Path | str,
    votes: Sequence[Path | str],
    *,
    least_catch: float | None = None,
    least_consistency: float | None = None,
    person: str | None = None,
    exposure_tolerance: float | None = None,
) -> Outcome:
    """Read the votes on the study in `folder` and leave out people who did not pay attention; nothing is written.

    person: count the votes of one person only, named by a session's identifier or a participant's number; by default all count.

    The other arguments are those of `read_study`. Raises the errors of `read_record`, `read_votes` and `screen`, and ValueError
    for a person who did not vote or cannot be told from another, and if no votes are left.
    """
    return tally(read_record(folder), votes, least_catch, least_consistency, person, exposure_tolerance)


def tally(
    study: Study,
    votes: Sequence[Path | str],
    least_catch: float | None = None,
    least_consistency: float | None = None,
    person: str | None = None,
    exposure_tolerance: float | None = None,
) -> Outcome:
    """Return what `count_votes` returns, for a study whose record has been read."""
    if least_catch is None:
        least_catch = 0.8 if study.round is None else study.round.least_catch
    if least_consistency is None:
        least_consistency = 0.0 if study.round is None else study.round.least_consistency
    if exposure_tolerance is not None and not exposure_tolerance >= 0:
        raise ValueError(f"exposure_tolerance must be at least 0 milliseconds, got {exposure_tolerance}.")
    stated = rules(study, least_catch, least_consistency)
    if exposure_tolerance is not None and study.exposure is not None:
        stated["exposure"] = (
            f"A vote counts if both pictures were on the screen for {study.exposure} milliseconds, give or take "
            f"{exposure_tolerance:g}, or if the page has not recorded it."
        )
    sessions, empty = read_votes(study, votes)
    if person is not None:
        sessions = _sessions_of(person, sessions)
    people = screen(study, sessions, least_catch, least_consistency)
    accepted = [session for session, person in zip(sessions, people, strict=True) if person.kept]
    shown, mistimed = _exposures(study, accepted, exposure_tolerance)
    counted = _count(study, accepted, mistimed)
    if not counted:
        reasons = "; ".join(f"participant {person.participant}: {person.why or 'no votes'}" for person in people)
        raise ValueError(f"no votes are left ({reasons or 'the files hold none'}); nothing was written.")
    numbers = [session.participant for session in sessions]
    return Outcome(
        study=study,
        people=people,
        votes=sum(map(sum, counted.values())),
        judged=len(counted),
        empty=empty,
        shared=sorted({number for number in numbers if numbers.count(number) > 1}),
        counted=counted,
        rules=stated,
        exposure=shown,
    )


def _sessions_of(person: str, sessions: Sequence[Session]) -> list[Session]:
    """The session of a person, as a list."""
    chosen = [session for session in sessions if session.id == person]
    chosen = chosen or [session for session in sessions if str(session.participant) == person]
    if len(chosen) != 1:
        known = ", ".join(f"{session.id} (participant {session.participant})" for session in sessions) or "none"
        reason = "several people used that participant's number" if chosen else "nobody of that name voted"
        raise ValueError(f"no single person '{person}': {reason}; the sessions are: {known}.")
    return chosen


def write_outcome(outcome: Outcome, folder: Path | str, to: Path | str) -> None:
    """Write the judgments, the pictures that they are about, and report.json to `to`; it appears whole or not at all.

    folder: of the study, with its pictures.

    Raises ValueError if `to` is not empty, FileNotFoundError for missing pictures, and OSError if `to` cannot be written.
    """
    folder, to = Path(folder), Path(to)
    folder = folder if folder.is_dir() else folder.parent
    check_free(to)
    study, counted = outcome.study, outcome.counted
    files = {(picture.reference, picture.shows): folder / picture.file for picture in study.pictures}
    needed = {(stem, name) for stem, first, second in counted for name in (TARGET, first, second)}
    if missing := sorted(str(files[key]) for key in needed if not files[key].is_file()):
        raise FileNotFoundError(f"{len(missing)} pictures of the study are missing, the first: '{missing[0]}'.")
    places = picture_places(study, needed)
    with new_folder(to) as written:
        for key in sorted(needed):
            place = written / places[key]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[key], place)
        rows = triplet_rows(study, counted, places) if study.mode == "2afc" else pair_rows(study, counted, places)
        with (written / ("data.csv" if study.mode == "2afc" else "jnd_votes.csv")).open(
            "w", newline="", encoding="utf-8"
        ) as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        write_json(written / "report.json", {**_report(outcome), "rules": outcome.rules})


def _exposures(
    study: Study, sessions: Sequence[Session], tolerance: float | None
) -> tuple[Exposure | None, set[tuple[str, str]]]:
    """How long pictures were shown, and the votes, as session and trial, for which it was off by more than `tolerance`."""
    if study.exposure is None:
        return None, set()
    trials = study.trials
    times: list[float] = []
    mistimed = set()
    for session in sessions:
        for vote in session.votes.values():
            times += vote.shown
            off = max((abs(time - study.exposure) for time in vote.shown), default=0.0)
            if tolerance is not None and off > tolerance and trials[vote.trial].kind == "pair":
                mistimed.add((session.id, vote.trial))
    if not times:
        return None, set()
    return Exposure(study.exposure, median(times), min(times), max(times), len(mistimed)), mistimed


def _count(study: Study, sessions: Sequence[Session], left_out: set[tuple[str, str]]) -> dict[Unit, list[int]]:
    """Votes by unit, [for the first method, for the second] or [same, different], sorted by reference and method."""
    order = {name: i for i, name in enumerate((*study.methods, TARGET))}
    trials = study.trials
    counted: dict[Unit, list[int]] = defaultdict(lambda: [0, 0])
    for session in sessions:
        for vote in session.votes.values():
            trial = trials[vote.trial]
            if trial.kind != "pair" or (session.id, vote.trial) in left_out:
                continue
            first, second_method = sorted((trial.left, trial.right), key=order.__getitem__)
            second = study.choices.index(vote.choice)
            if study.mode == "2afc" and trial.left != first:
                second = 1 - second
            counted[trial.reference, first, second_method][second] += 1
    return dict(sorted(counted.items(), key=lambda item: (item[0][0], order[item[0][1]], order[item[0][2]])))


def _report(outcome: Outcome) -> dict[str, Any]:
    study = outcome.study
    return {
        "study": study.id,
        "title": study.title,
        "mode": study.mode,
        "methods": study.methods,
        "votes": outcome.votes,
        "judged": outcome.judged,
        "people": [{**asdict(person), "kept": person.kept} for person in outcome.people],
        "files_without_votes": outcome.empty,
        "numbers_used_by_several_people": outcome.shared,
        **({} if outcome.exposure is None else {"exposure": asdict(outcome.exposure)}),
    }
