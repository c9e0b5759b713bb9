"""Read the files that participants send back, CSV or JSON, and combine them into one session per person."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamsim_guidance.data.readers.table import number, read_table
from dreamsim_guidance.study.record import Study

__all__ = ["Session", "Vote", "read_votes"]

_LARGEST = 64 << 20
"""Bytes of a file, of which a vote takes about 200; a larger file is something else."""
_FORMAT = "dreamsim_guidance votes 1"
_HEAD = ("study", "session", "participant", "chosen_by")
_VOTE = ("position", "trial", "choice", "milliseconds", "time", "input", "undone", "width")
_TIMES = ("first_shown", "first_masked", "second_shown", "second_masked")
"""Of brief presentation; pages without a mask, and those of earlier releases, leave some or all of them out."""
_NEEDED = ("study", "session", "participant", "trial", "choice", "milliseconds", "time")


@dataclass(frozen=True)
class Vote:
    """One answer.

    milliseconds: from the moment at which the question could be answered.
    time: in UTC, ISO 8601.
    input: key, mouse, touch or pen.
    undone: how often the answer was taken back before.
    width: of the pictures on the screen, in CSS pixels.
    shown: how long the first and the second picture were on the screen, in milliseconds (JND); empty if it is not known.
    """

    trial: str
    choice: str
    milliseconds: float
    time: str
    input: str = ""
    undone: str = ""
    width: str = ""
    shown: tuple[float, ...] = ()


@dataclass
class Session:
    """The answers of one person, that is, of one start of the page in one browser, and the files that hold them."""

    id: str
    participant: int
    chosen_by: str
    votes: dict[str, Vote] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def read_votes(study: Study, files: Sequence[Path | str]) -> tuple[list[Session], list[Path]]:
    """Return sessions, in the order in which they first appear, and the files without votes. A folder stands for its files.

    Files of one session (CSV and JSON, or an early and a final download) belong to one person; if they differ, the later answer
    to a trial counts. Raises FileNotFoundError, and ValueError for a file of another kind or of another study, an
    unknown trial or one of another participant, an impossible answer, and a trial that is answered twice in a file.
    """
    trials = study.trials
    sessions: dict[str, Session] = {}
    empty = []
    for file in _files(files):
        answered: set[str] = set()
        for where, row in _rows(file):
            if row["study"] != study.id:
                _refuse_earlier_round(study, file, row["study"])
                raise ValueError(
                    f"'{file}' belongs to the study {row['study']!r}, not to {study.id!r} (\"{study.title}\"); "
                    "give the folder of the study that it belongs to."
                )
            session = _session(where, row, sessions)
            trial = trials.get(row["trial"])
            if trial is None:
                raise ValueError(f"{where}: the study has no trial {row['trial']!r}; the file was changed by hand.")
            if trial.participant != session.participant:
                raise ValueError(
                    f"{where}: the trial {trial.id} belongs to participant {trial.participant}, not to "
                    f"{session.participant}; the file was changed by hand."
                )
            if row["choice"] not in study.choices:
                raise ValueError(f"{where}: choice must be {' or '.join(study.choices)}, got {row['choice']!r}.")
            if trial.id in answered:
                raise ValueError(f"{where}: the trial {trial.id} is answered twice; the file was changed by hand.")
            answered.add(trial.id)
            milliseconds = number(where, "milliseconds", row["milliseconds"], 0.0)
            shown = tuple(
                number(where, name, row[name], 0.0) for name in ("first_shown", "second_shown") if row.get(name)
            )
            details = (row["input"], row["undone"], row["width"], shown)
            vote = Vote(trial.id, row["choice"], milliseconds, row["time"], *details)
            if trial.id not in session.votes or session.votes[trial.id].time < vote.time:
                session.votes[trial.id] = vote
            if file not in session.files:
                session.files.append(file)
        if not answered:
            empty.append(file)
    return list(sessions.values()), empty


def _refuse_earlier_round(study: Study, file: Path, id: str) -> None:
    """Raise ValueError if the votes belong to an earlier round of the study."""
    if study.round is None:
        return
    for past in study.round.past:
        if past.study == id:
            raise ValueError(
                f"'{file}' belongs to round {past.number} of this study, and this is round {study.round.number}: the votes of "
                f"round {past.number} were counted when the next round was made. To count it too, run `study next` on round "
                f"{past.number} again, with all files of that round, into another folder."
            )


def _files(paths: Sequence[Path | str]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"votes not found: '{path}'; give the files that the page downloaded.")
        inside = (
            sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".json") and file.is_file())
            if path.is_dir()
            else [path]
        )
        if not path.is_dir() and not path.is_file():
            raise ValueError(f"'{path}' is not a file of votes; give the files that the page downloaded.")
        if not inside:
            raise ValueError(f"'{path}' holds no .csv and no .json file of votes.")
        files += inside
    if not files:
        raise ValueError("give at least one file of votes, CSV or JSON.")
    return list(dict.fromkeys(files))


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"'{file}' is not a file of votes: it has {file.stat().st_size:,} bytes.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{file}' is not a file of votes: it is not text.") from error
    if text.lstrip()[:1] not in ("{", "["):
        yield from read_table(file, _NEEDED, (*_HEAD, *_VOTE, *_TIMES))
        return
    try:
        content: dict[str, Any] = json.loads(text)
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
        head = {name: str(content[name]) for name in _HEAD}
        rows = [
            {name: str(vote[name]) for name in _VOTE} | {name: str(vote.get(name, "")) for name in _TIMES}
            for vote in content["votes"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{file}' is not a file of votes ({type(error).__name__}: {error}).") from error
    for i, row in enumerate(rows, 1):
        yield f"'{file}', vote {i}", {**head, **row}


def _session(where: str, row: dict[str, str], sessions: dict[str, Session]) -> Session:
    participant = int(number(where, "participant", row["participant"], 1.0))
    if not row["session"]:
        raise ValueError(f"{where}: the session is missing; the file was changed by hand.")
    session = sessions.setdefault(row["session"], Session(row["session"], participant, row["chosen_by"]))
    if session.participant != participant:
        raise ValueError(
            f"{where}: the session {session.id} belongs to participant {session.participant}, not to {participant}; "
            "the file was changed by hand."
        )
    return session
