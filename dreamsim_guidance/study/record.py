"""study.json: which method made each picture, and every trial of every participant.

It is needed to read votes, and participants must not see it: do not upload it with the page, which contains nothing of it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.data.readers.table import inside
from dreamsim_guidance.study.design import CHOICES, DEGRADED, TARGET, Mode, Trial
from dreamsim_guidance.study.round_rule import PastRound, Round, rules_of_round
from dreamsim_guidance.study.triplets import Standing, TripletFolder

__all__ = ["RULES", "Picture", "Study", "read_record"]

_SURROGATE = re.compile("[\ud800-\udfff]")
"""A byte of a file name that is not UTF-8, as Python has it; JSON's escape of it is read back as the same."""
_FORMAT = "dreamsim_guidance study 1"

_OPTIONAL = ("exposure", "triplets", "round")
"""Fields that are left out of the file where they are None."""

RULES = {
    "sides": "Of every two successive votes on the same pictures, one shows them each way round, in random order.",
    "catch 2afc": "One candidate is the reference itself, the other is that reduced to 6 x 6 pixels and enlarged again.",
    "catch jnd": "Half show the reference twice (same), the others the reference and its reduction to 6 x 6 (different).",
    "repeats": "Trials of the first third of a block return in its last third, sides swapped; they never count as votes.",
}


@dataclass(frozen=True)
class Picture:
    """One file of the page. `shows` is a method, TARGET or DEGRADED; `source` is the file from which it was made."""

    file: str
    reference: str
    shows: str
    source: str


@dataclass(frozen=True)
class Study:
    """The record of a study.

    pictures, extra: those that votes are about, and those of catch trials only.
    exposure: milliseconds for which each picture is shown in JND; None in 2AFC, and where it is not known.
    triplets, round: of a study of triplets, see `rounds.py`; None where methods are compared.
    """

    id: str
    title: str
    mode: Mode
    seed: int
    participants: int
    methods: tuple[str, ...]
    pictures: tuple[Picture, ...]
    extra: tuple[Picture, ...]
    blocks: tuple[tuple[Trial, ...], ...]
    exposure: int | None = None
    triplets: TripletFolder | None = None
    round: Round | None = None

    @property
    def trials(self) -> dict[str, Trial]:
        return {trial.id: trial for block in self.blocks for trial in block}

    @property
    def choices(self) -> tuple[str, str]:
        return CHOICES[self.mode]

    def json(self) -> str:
        """Return the content of study.json."""
        fields = asdict(self)
        blocks = fields.pop("blocks")
        rules = RULES if self.round is None else {**RULES, **rules_of_round(self.round, self.mode)}
        content = {
            "format": _FORMAT,
            **{name: value for name, value in fields.items() if name not in _OPTIONAL or value is not None},
            "rules": rules,
            "trials": [trial for block in blocks for trial in block],
        }
        return _SURROGATE.sub(_escaped, json.dumps(content, indent=1, ensure_ascii=False)) + "\n"


def _escaped(surrogate: re.Match[str]) -> str:
    return f"\\u{ord(surrogate[0]):04x}"


def read_record(folder: Path | str) -> Study:
    """Read the record of the study in a folder, or its study.json.

    Raises FileNotFoundError if there is none, ValueError if the file is something else.
    """
    file = Path(folder)
    file = file / "study.json" if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(
            f"no study at '{folder}'; give the folder that `study make` wrote, with its study.json."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
        return _study(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"'{file}' is not the record of a study ({type(error).__name__}: {error}).") from error


def _study(content: dict[str, Any]) -> Study:
    trials = [Trial(**fields) for fields in content["trials"]]
    number = int(content["participants"])
    blocks: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        blocks[trial.participant].append(trial)
    for picture in (*content["pictures"], *content["extra"]):
        inside("study.json", picture["file"])
    _check_trials(trials, content)
    return Study(
        id=content["id"],
        title=content["title"],
        mode=content["mode"],
        seed=content["seed"],
        participants=number,
        methods=tuple(content["methods"]),
        pictures=tuple(Picture(**fields) for fields in content["pictures"]),
        extra=tuple(Picture(**fields) for fields in content["extra"]),
        blocks=tuple(tuple(blocks[p]) for p in range(1, number + 1)),
        exposure=content.get("exposure"),
        triplets=_triplets(content["triplets"]) if "triplets" in content else None,
        round=_round(content["round"]) if "round" in content else None,
    )


def _check_trials(trials: list[Trial], content: dict[str, Any]) -> None:
    """Raise ValueError for a trial of a participant, method or triplet that the record does not know."""
    shown = {*content["methods"], TARGET, DEGRADED}
    triplets = {row["id"] for row in content["triplets"]["rows"]} if "triplets" in content else None
    for trial in trials:
        if not 1 <= trial.participant <= content["participants"]:
            raise ValueError(f"the trial {trial.id} has the participant {trial.participant}")
        if not {trial.left, trial.right} <= shown:
            raise ValueError(f"the trial {trial.id} shows {trial.left!r} and {trial.right!r}")
        if triplets is not None and trial.reference not in triplets:
            raise ValueError(f"the trial {trial.id} shows the unknown triplet {trial.reference!r}")


def _triplets(fields: dict[str, Any]) -> TripletFolder:
    rows = tuple(Standing(**{**row, "shown": tuple(row["shown"])}) for row in fields["rows"])
    for row in rows:
        if not all(
            isinstance(number, int) and number >= 0 for number in (row.left, row.right, row.dropped, *row.shown)
        ):
            raise ValueError(f"triplet {row.id}: votes, rounds and participants are whole numbers of at least 0")
        for path in (row.ref_path, row.left_path, row.right_path):
            inside(f"triplet {row.id}", path)
    return TripletFolder(fields["folder"], rows)


def _round(fields: dict[str, Any]) -> Round:
    past = tuple(PastRound(**{**round, "numbers": tuple(round["numbers"])}) for round in fields["past"])
    return Round(**{**fields, "splits": tuple(fields["splits"]), "past": past})
