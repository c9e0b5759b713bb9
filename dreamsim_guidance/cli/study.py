"""`dreamsim-guidance study`: make a web page on which people compare reconstructions, and read their answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from dreamsim_guidance.cli.outputs import check_file, check_folder

if TYPE_CHECKING:
    from dreamsim_guidance.study import MadeRound, Outcome, Page

__all__ = ["Choose", "Make", "Next", "Read", "StudyCommand"]


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
        _report_round(made, self.to)
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
        _warn_of_shapes(result.other_shape, "target", "the method")
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
    least_catch: float | None = None
    """Share of the catch trials that a person must answer correctly; people who answered none are left out. By default 0.8, or
    what `study make` was told for triplets."""
    least_consistency: float | None = None
    """Share of the repeated trials that a person must answer as the first time; people without any are kept. By default 0, or
    what `study make` was told for triplets."""
    exposure_tolerance: float | None = None
    """Leave out votes for which a picture was on the screen for a time that is off by more than so many milliseconds (jnd)."""

    def __call__(self) -> int:
        from dreamsim_guidance.study.folder import check_free
        from dreamsim_guidance.study.reader import count_votes, write_outcome

        check_free(self.to)
        check_folder(self.to.absolute().parent, "--to")
        outcome = count_votes(
            self.study,
            self.votes,
            least_catch=self.least_catch,
            least_consistency=self.least_consistency,
            exposure_tolerance=self.exposure_tolerance,
        )
        _report_people(outcome)
        accepted = sum(person.kept for person in outcome.people)
        what = "triplets" if outcome.study.mode == "2afc" else "pairs"
        print(
            f"{outcome.votes} votes of {accepted} people (of {len(outcome.people)}) for {outcome.judged} {what}: {self.to}",
            flush=True,
        )
        if (exposure := outcome.exposure) is not None:
            print(
                f"pictures were on the screen for {exposure.median:.0f} ms (median; {exposure.least:.0f} to "
                f"{exposure.most:.0f}), {exposure.wanted} wanted; {exposure.mistimed} votes left out for it"
            )
        if outcome.study.mode == "jnd":
            alike = sum(same >= different for same, different in outcome.counted.values())
            print(f"{alike} of {outcome.judged} pairs look the same to at least half of the people")
        write_outcome(outcome, self.study, self.to)
        return 0


@dataclass(frozen=True)
class Next:
    """Read the votes of a round, drop the triplets on which people disagree, and make the next round or the final set.

    The rule is the one that `study make` has written into study.json. After the last round, the triplets with enough votes, all
    of them equal, are written in NIGHTS' layout. The same files give the same result; if it is there, nothing is written.
    """

    study: Positional[Path]
    """The folder of the round, as `study make` or `study next` wrote it."""
    votes: Positional[tuple[Path, ...]]
    """Files that the page of this round downloaded, CSV or JSON, or folders of them."""
    to: Path
    """Folder for the next round or the final set; it must be new or empty, or hold the same result."""
    participants: int | None = None
    """Number of participants of the next round; by default as in this one."""
    rounds: int | None = None
    """Planned rounds, to change the plan: more, to ask again about triplets with too few votes, or fewer."""
    triplets: Path | None = None
    """The folder of the triplets, if it has been moved."""

    def __call__(self) -> int:
        from dreamsim_guidance.study import next_round

        check_folder(self.to.absolute().parent, "--to")
        result = next_round(
            self.study,
            self.votes,
            self.to,
            participants=self.participants,
            rounds=self.rounds,
            triplets=self.triplets,
        )
        _report_people(result.outcome)
        past, rule = result.past, result.outcome.study.round
        if result.returned:
            print(
                f"participant numbers that also took part in an earlier round: {', '.join(map(str, result.returned))}; none of "
                "them was shown a triplet again",
                file=sys.stderr,
            )
        if past.without_votes:
            print(f"{past.without_votes} triplets got no vote that counts; they stay in", file=sys.stderr)
        print(
            f"round {past.number}: {past.votes} votes of {past.people - past.left_out} people (of {past.people}) on "
            f"{past.asked} triplets; {past.dropped} dropped, {past.unanimous} unanimous so far"
        )
        if not result.written:
            print(f"{self.to}: holds this result already; nothing was written")
        if result.made is not None:
            _report_round(result.made, self.to)
            return 0
        least = rule.least_votes if rule else 0
        print(f"final set: {result.kept} triplets with at least {least} unanimous votes: {self.to}")
        if result.short:
            more = past.number + 1
            print(
                f"{result.short} more are unanimous with fewer votes; to ask about them again, use --rounds {more} and another "
                "folder",
                file=sys.stderr,
            )
        return 0


@dataclass(frozen=True)
class Choose:
    """Choose the triplets that people should be asked about next, so that few votes teach a metric much.

    Prints the ids, the most useful first, or writes them for `study make --only`.
    """

    triplets: Positional[Path]
    """The folder of triplets with data.csv."""
    count: int
    """How many triplets to choose."""
    metric: str = "pocket"
    """The metric whose frozen embeddings are used: a variant or a model file."""
    votes: Path | None = None
    """Votes so far: a folder that `study read` or the last `study next` wrote, or the folder of a round."""
    choice: Literal["information", "disagreement", "margin", "random"] = "information"
    """information: whose answer tells most about the metric's weights; disagreement: of an ensemble of heads; margin:
    candidates about equally far; random."""
    again: bool = False
    """Also choose triplets that have votes already."""
    seed: int = 0
    """Of random choices."""
    to: Path | None = None
    """A text file for the ids; by default they are printed."""

    def __call__(self) -> int:
        from dreamsim_guidance.files.atomic import write_text
        from dreamsim_guidance.training.triplet_questions import next_questions

        if self.to is not None:
            check_file(self.to, "--to")
        ids = next_questions(
            self.triplets,
            self.metric,
            self.count,
            votes=self.votes,
            choice=self.choice,
            again=self.again,
            seed=self.seed,
        )
        if len(ids) < self.count:
            print(f"only {len(ids)} triplets can be chosen", file=sys.stderr)
        text = "".join(f"{id}\n" for id in ids)
        if self.to is None:
            print(text, end="")
        else:
            write_text(self.to, text)
            print(f"{len(ids)} ids: {self.to}")
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


def _between(low: int, high: int) -> str:
    return str(high) if low == high else f"{low} to {high}"


def _lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    if not file.is_file():
        raise FileNotFoundError(f"'{file}' is missing; --only takes a text file with the id of a triplet on each line.")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _report_people(outcome: Outcome) -> None:
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


def _report_round(made: MadeRound, to: Path) -> None:
    _warn_of_shapes(made.other_shape, "reference", "which candidate it is")
    if made.idle:
        print(f"nothing to do for participants {', '.join(map(str, made.idle))}", file=sys.stderr)
    study = made.study
    rule = study.round
    votes = rule.votes if rule else 0
    if study.mode == "jnd":
        print(
            f"study {study.id}: {made.asked} pairs, {votes} votes each; participant numbers 1 to {study.participants}"
        )
    else:
        number, rounds = (rule.number, rule.rounds) if rule else (0, 0)
        print(
            f"study {study.id}: round {number} of {rounds}, {made.asked} triplets, up to {number * votes} votes each; "
            f"participant numbers 1 to {study.participants}"
        )
    print(f"{_between(*made.answers)} answers each")
    print(f"{to / 'index.html'}: publish it with images/, and give out index.html?p=1, ?p=2, ...")
    print(f"{to / 'study.json'}: keep it private: it says which picture is which")


def _warn_of_shapes(files: list[Path], target: str, what: str) -> None:
    if files:
        print(
            f"{len(files)} pictures have another aspect ratio than their {target}, by which people may recognise {what}; the "
            f"first: '{files[0]}'",
            file=sys.stderr,
        )
