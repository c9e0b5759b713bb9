"""`dreamsim-guidance study`: make a web page on which people compare pictures, and the other commands of studies."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from dreamsim_guidance.cli.outputs import check_folder
from dreamsim_guidance.cli.study_reports import between, report_round, warn_of_shapes
from dreamsim_guidance.cli.study_votes import Choose, Next, Read

if TYPE_CHECKING:
    from dreamsim_guidance.study import Page

__all__ = ["Make", "StudyCommand"]

_OF_TRIPLETS = ("votes", "rounds", "least_votes", "people", "least_catch", "least_consistency", "only")
"""Options of `study make` that only apply to triplets."""


@dataclass(frozen=True)
class Make:
    """Write a web page on which people compare reconstructions by several methods, or the first round of votes on triplets.

    With folders of methods, people compare the methods' reconstructions of the same references. Without any, the first folder
    holds triplets in NIGHTS' layout, and the page is the first round of votes on them; `study next` makes the next one.

    The page is one HTML file and its pictures, for any web server or a memory stick; nothing else is needed. Sides and order
    are random, from a seed. Catch trials have a known answer; repeated trials show whether people agree with themselves.
    """

    targets: Positional[Path]
    """Folder of the reference pictures; or, without methods, the folder of triplets with data.csv, or such a table."""
    methods: Positional[tuple[str, ...]] = ()
    """A folder for each method, or NAME=FOLDER; pictures are matched by file name, but endings may differ."""
    to: Path = field(kw_only=True)
    """Folder for index.html, images/ and study.json; it must be new or empty."""
    mode: Literal["2afc", "jnd"] = "2afc"
    """2afc: which of two is more like the reference? jnd: were the two pictures, shown briefly, the same?"""
    participants: int = 20
    """Number of participants; each has a number and their own trials."""
    trials: int | None = None
    """Trials for each participant, besides catch and repeated ones; by default all comparisons, at most 40 (methods)."""
    catch: int = 5
    """Catch trials for each participant."""
    repeats: int | None = None
    """Trials that are shown a second time; by default a third, at most 4."""
    seed: int = 0
    """Of sides, order and assignment."""
    name: str = "Comparing pictures"
    """Title of the page."""
    question: str | None = None
    """What participants are asked; by default the question of the mode."""
    closing: str = "Please send one of the two files to the person who invited you."
    """What participants read at the end."""
    size: int = 320
    """Width and height of the pictures on the screen, in CSS pixels; smaller only in a small window."""
    exposure: int = 500
    """Milliseconds for which each picture is shown (jnd)."""
    gap: int = 500
    """Milliseconds of empty window before the second picture (jnd)."""
    mask: int = 200
    """Milliseconds of random noise in the place of each picture after it, 0 for none (jnd)."""
    votes: int = 2
    """Votes that each triplet gets in every round (triplets)."""
    rounds: int = 3
    """Planned rounds (triplets)."""
    least_votes: int = 6
    """Unanimous votes that a triplet needs to be in the final set (triplets)."""
    people: Literal["same", "new"] = "same"
    """same: a participant number is one person in all rounds, who is not shown a triplet again; new: other people each time."""
    least_catch: float = 0.8
    """Share of the catch trials that a person must answer correctly for their votes to count (triplets)."""
    least_consistency: float = 0.0
    """Share of the repeated trials that a person must answer as the first time (triplets)."""
    only: Path | None = None
    """A text file with the ids of the triplets to ask about, one on each line; by default all (triplets)."""

    def __call__(self) -> int:
        from dreamsim_guidance.study import Page

        check_folder(self.to.absolute().parent, "--to")
        page = Page(self.name, self.question, self.closing, self.size, self.exposure, self.gap, self.mask)
        if not self.methods:
            return self._triplets(page)
        for name in _OF_TRIPLETS:
            if getattr(self, name) != getattr(Make, name):
                raise ValueError(f"--{name.replace('_', '-')} is for triplets, not for folders of methods.")
        return self._methods(page)

    def _triplets(self, page: Page) -> int:
        from dreamsim_guidance.study import Round, make_round

        if self.trials is not None:
            raise ValueError("--trials is for folders of methods; for triplets, give --votes and --participants.")
        rule = Round(
            rounds=self.rounds,
            votes=self.votes,
            least_votes=self.least_votes,
            people=self.people,
            least_catch=self.least_catch,
            least_consistency=self.least_consistency,
            catch=self.catch,
            repeats=4 if self.repeats is None else self.repeats,
        )
        made = make_round(
            self.targets,
            self.to,
            mode=self.mode,
            participants=self.participants,
            rule=rule,
            only=None if self.only is None else _lines(self.only),
            seed=self.seed,
            page=page,
        )
        report_round(made, self.to)
        return 0

    def _methods(self, page: Page) -> int:
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.study import make_study

        result = make_study(
            self.targets,
            self.methods,
            self.to,
            mode=self.mode,
            participants=self.participants,
            trials=self.trials,
            catch=self.catch,
            repeats=self.repeats,
            seed=self.seed,
            page=page,
        )
        for name, stems in result.missing.items():
            print(f"missing in {name}: {', '.join(map(printable, stems))}", file=sys.stderr)
        warn_of_shapes(result.other_shape, "target", "the method")
        study, (few, many) = result.study, result.votes
        if few == 0:
            print(
                "some comparisons are not shown to any participant; use more --participants or --trials.",
                file=sys.stderr,
            )
        what = "triplet" if self.mode == "2afc" else "pair"
        print(f"study {study.id}: {len(study.methods)} methods, participant numbers 1 to {study.participants}")
        print(f"{len(study.blocks[0])} answers each; {between(few, many)} votes for each {what} if all take part")
        print(f"{self.to / 'index.html'}: publish it with images/, and give out index.html?p=1, ?p=2, ...")
        print(f"{self.to / 'study.json'}: keep it private: it says which method made each picture")
        return 0


_Command = (
    Annotated[Make, subcommand("make")]
    | Annotated[Next, subcommand("next")]
    | Annotated[Read, subcommand("read")]
    | Annotated[Choose, subcommand("choose")]
)


@dataclass(frozen=True)
class StudyCommand:
    """Let people compare pictures on a web page (study make), in several rounds (study next), and read votes (study read)."""

    command: OmitArgPrefixes[OmitSubcommandPrefixes[_Command]]

    def __call__(self) -> int:
        return self.command()


def _lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' is missing; --only takes a text file with the id of a triplet on each line.")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
