"""The page of a study: page.html with its style, its program and the trials inserted. It needs nothing but images/.

The program is page.js with presentation.js. The page contains ids of trials and numbers of pictures, but no name of a method.
A person takes part under a participant number, which is part of the address (`?p=3`), or which the page proposes at random and
the person can change. How it was chosen is recorded.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dreamsim_guidance.study.design import DEGRADED, TARGET, Trial
from dreamsim_guidance.study.record import Study

__all__ = ["Page", "render"]

_QUESTION = {
    "2afc": "Which of the two is more like the reference?",
    "jnd": "Were the two pictures the same?",
}
_LABELS = {"2afc": ("A", "B"), "jnd": ("Same", "Different")}


@dataclass(frozen=True)
class Page:
    """What participants read, and how pictures are shown.

    title: of the page.
    question: by default that of the mode.
    closing: read at the end; by default a request to send the downloaded file.
    size: width and height, in CSS pixels, of the square into which each picture is fitted; by default 320. In a small
        window, all pictures are equally smaller.
    exposure, mask, gap: in JND, how long each picture is shown, how long random noise covers its place afterwards, and the
        pause before the second picture, in milliseconds; by default 500, 200 and 500. A mask of 0 leaves the noise out. The
        page counts in frames of the display, and records with each vote how long pictures and masks were on the screen.

    Raises ValueError for an empty title, for text that is not Unicode, and for numbers out of range.
    """

    title: str = "Comparing pictures"
    question: str | None = None
    closing: str = "Please send one of the two files to the person who invited you."
    size: int = 320
    exposure: int = 500
    gap: int = 500
    mask: int = 200

    def __post_init__(self) -> None:
        for name in ("title", "question", "closing"):
            text = getattr(self, name)
            if text is not None and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError(f"the {name} {text!r} is not valid Unicode text; write it in UTF-8.")
        if not self.title.strip():
            raise ValueError("the title must not be empty.")
        if not 32 <= self.size <= 4096:
            raise ValueError(f"size must lie between 32 and 4096 pixels, got {self.size}.")
        if not (10 <= self.exposure <= 60_000 and 0 <= self.gap <= 60_000 and 0 <= self.mask <= 60_000):
            raise ValueError(
                "exposure must lie between 10 and 60000 milliseconds, gap and mask between 0 and 60000, got "
                f"{self.exposure}, {self.gap} and {self.mask}."
            )


def render(study: Study, page: Page) -> str:
    """Return the text of index.html."""
    main = {(picture.reference, picture.shows): _number(picture.file) for picture in study.pictures}
    extra = {(picture.reference, picture.shows): _number(picture.file) for picture in study.extra}

    def shown(trial: Trial) -> list[str | int]:
        sides = [trial.left, trial.right]
        numbers = [main.get((trial.reference, side), extra.get((trial.reference, side), 0)) for side in sides]
        target = main[trial.reference, TARGET]
        if (
            trial.kind == "catch" and study.mode == "2afc"
        ):  # not the reference's own file, whose name would reveal the answer
            numbers = [extra[trial.reference, side] for side in sides]
        elif trial.kind == "catch" and DEGRADED not in sides:
            numbers = [target, extra[trial.reference, TARGET]]
        return [trial.id, target, *numbers] if study.mode == "2afc" else [trial.id, *numbers]

    data = {
        "id": study.id,
        "mode": study.mode,
        "title": page.title,
        "question": page.question or _QUESTION[study.mode],
        "closing": page.closing,
        "choices": study.choices,
        "labels": _LABELS[study.mode],
        "exposure": page.exposure,
        "gap": page.gap,
        "mask": page.mask,
        "digits": len(Path(study.pictures[0].file).stem),
        "blocks": [[shown(trial) for trial in block] for block in study.blocks],
    }
    folder = resources.files("dreamsim_guidance.study")
    text, style, presentation, program = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "presentation.js", "page.js")
    )
    parts = {
        "<!--TITLE-->": html.escape(page.title),
        "/*STYLE*/": style.replace("320px", f"{page.size}px"),
        # the JSON in the page must not contain "</script>"
        "/*DATA*/": json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        "/*PROGRAM*/": f"{program}\n{presentation}",
    }
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match.group()], text)


def _number(file: str) -> int:
    return int(Path(file).stem)
