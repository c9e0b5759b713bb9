"""`dreamsim-guidance study`: make a web page on which people compare reconstructions, and read their answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from dreamsim_guidance.cli.outputs import check_folder

__all__ = ["Make", "Read", "StudyCommand"]


@dataclass(frozen=True)
class Make:
    """Write a web page on which people compare reconstructions of the same references by several methods.

    It is one HTML file and its pictures, for any web server or a memory stick; nothing else is needed. Sides and order are
    random, from a seed. Catch trials have a known answer; repeated trials show whether people agree with themselves.
    """

    targets: Positional[Path]
    """Folder of the reference pictures."""
    methods: Positional[tuple[str, ...]]
    """A folder for each method, or NAME=FOLDER; pictures are matched by file name, but endings may differ."""
    to: Path
    """Folder for index.html, images/ and study.json; it must be new or empty."""
    mode: Literal["2afc", "jnd"] = "2afc"
    """2afc: which of two is more like the reference? jnd: were the two pictures, shown briefly, the same?"""
    participants: int = 20
    """Number of participants; each has a number and their own trials."""
    trials: int | None = None
    """Trials for each participant, besides catch and repeated ones; by default all comparisons, at most 40."""
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
    """Milliseconds between the two pictures (jnd)."""

    def __call__(self) -> int:
        from dreamsim_guidance.files.names import printable
        from dreamsim_guidance.study import Page, make_study

        check_folder(self.to.absolute().parent, "--to")
        page = Page(self.name, self.question, self.closing, self.size, self.exposure, self.gap)
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
        if result.other_shape:
            print(
                f"{len(result.other_shape)} pictures have another aspect ratio than their target, by which people may "
                f"recognise the method; the first: '{result.other_shape[0]}'",
                file=sys.stderr,
            )
        study, (few, many) = result.study, result.votes
        if few == 0:
            print(
                "some comparisons are not shown to any participant; use more --participants or --trials.",
                file=sys.stderr,
            )
        what = "triplet" if self.mode == "2afc" else "pair"
        print(f"study {study.id}: {len(study.methods)} methods, participant numbers 1 to {study.participants}")
        print(f"{len(study.blocks[0])} answers each; {_between(few, many)} votes for each {what} if all take part")
        print(f"{self.to / 'index.html'}: publish it with images/, and give out index.html?p=1, ?p=2, ...")
        print(f"{self.to / 'study.json'}: keep it private: it says which method made each picture")
        return 0


@dataclass(frozen=True)
class Read:
    """Combine the votes of many people, leave out inattentive people, and write judgments that `evaluate` reads.

    Several files of one person, CSV or JSON, early or late, count once. Repeated trials never count as votes.
    """

    study: Positional[Path]
    """The folder that `study make` wrote."""
    votes: Positional[tuple[Path, ...]]
    """Files that the page downloaded, CSV or JSON, or folders of them."""
    to: Path
    """Folder for the judgments, the pictures and report.json; it must be new or empty."""
    least_catch: float = 0.8
    """Share of the catch trials that a person must answer correctly; people who answered none are left out."""
    least_consistency: float = 0.0
    """Share of the repeated trials that a person must answer as the first time; people without any are kept."""

    def __call__(self) -> int:
        from dreamsim_guidance.study.folder import check_free
        from dreamsim_guidance.study.reader import count_votes, write_outcome

        check_free(self.to)
        check_folder(self.to.absolute().parent, "--to")
        outcome = count_votes(
            self.study, self.votes, least_catch=self.least_catch, least_consistency=self.least_consistency
        )
        for file in outcome.empty:
            print(f"'{file}' holds no votes", file=sys.stderr)
        for number in outcome.shared:
            print(f"participant number {number} was used by several people; each is counted", file=sys.stderr)
        for rule in outcome.rules.values():
            print(rule)
        for person in outcome.people:
            print(
                f"participant {person.participant} ({person.session[:6]}): {person.votes} votes, "
                f"catch {person.catch_right}/{person.catch}, repeats {person.consistent}/{person.repeats}, "
                f"{person.median_milliseconds / 1000:.1f} s"
                + ("" if person.finished else ", not finished")
                + ("" if person.kept else f", LEFT OUT: {person.why}")
            )
        accepted = sum(person.kept for person in outcome.people)
        what = "triplets" if outcome.study.mode == "2afc" else "pairs"
        print(
            f"{outcome.votes} votes of {accepted} people (of {len(outcome.people)}) for {outcome.judged} {what}: {self.to}",
            flush=True,
        )
        write_outcome(outcome, self.study, self.to)
        return 0


_Command = Annotated[Make, subcommand("make")] | Annotated[Read, subcommand("read")]


@dataclass(frozen=True)
class StudyCommand:
    """Let people compare reconstructions on a web page (study make), and read their answers (study read)."""

    command: OmitArgPrefixes[OmitSubcommandPrefixes[_Command]]

    def __call__(self) -> int:
        return self.command()


def _between(low: int, high: int) -> str:
    return str(high) if low == high else f"{low} to {high}"
