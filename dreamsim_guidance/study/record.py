"""study.json: which method made each picture, and every trial of every participant.

It is needed to read votes, and participants must not see it: do not upload it with the page, which contains nothing of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.study.design import CHOICES, Mode, Trial

__all__ = ["RULES", "Picture", "Study", "read_record"]

_SURROGATE = re.compile("[\ud800-\udfff]")
"""A byte of a file name that is not UTF-8, as Python has it; JSON's escape of it is read back as the same."""
_FORMAT = "dreamsim_guidance study 1"

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
    """The record of a study. `pictures` are those that votes are about, `extra` those of catch trials only."""

    id: str
    title: str
    mode: Mode
    seed: int
    participants: int
    methods: tuple[str, ...]
    pictures: tuple[Picture, ...]
    extra: tuple[Picture, ...]
    blocks: tuple[tuple[Trial, ...], ...]

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
        content = {
            "format": _FORMAT,
            **fields,
            "rules": RULES,
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
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{file}' is not the record of a study ({type(error).__name__}: {error}).") from error


def _study(content: dict[str, Any]) -> Study:
    trials = [Trial(**fields) for fields in content["trials"]]
    number = int(content["participants"])
    return Study(
        id=content["id"],
        title=content["title"],
        mode=content["mode"],
        seed=content["seed"],
        participants=number,
        methods=tuple(content["methods"]),
        pictures=tuple(Picture(**fields) for fields in content["pictures"]),
        extra=tuple(Picture(**fields) for fields in content["extra"]),
        blocks=tuple(tuple(trial for trial in trials if trial.participant == p) for p in range(1, number + 1)),
    )
