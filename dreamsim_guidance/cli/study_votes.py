"""`dreamsim-guidance study read`, `next` and `choose`: from votes to judgments, to the next round, to what to ask next."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_file, check_folder
from dreamsim_guidance.cli.study_reports import report_people, report_round

__all__ = ["Choose", "Next", "Read"]


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
        report_people(outcome)
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
        report_people(result.outcome)
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
            report_round(result.made, self.to)
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
    candidates about equally far though they differ; random."""
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
