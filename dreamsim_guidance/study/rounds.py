"""Rounds of votes on triplets: after each, the triplets on which people disagree are dropped, and the others are asked again.

NIGHTS consists of triplets on which people agreed: of 100,000 triplets, 20,019 were kept, each with the number of people who
all gave the same answer, and the original's loader takes those with at least six. `make_round` writes the page of the first
round, `next_round` reads its votes and writes the next one, or the final set.

How the rounds of NIGHTS were scheduled is not stated in the files that its authors published. The schedule here (three rounds
of two votes by default, screening by catch trials, shares of the splits) is this library's choice. Every decision is written
into study.json before the votes are collected, see `round_rule.py`.

Fu et al., DreamSim, NeurIPS 2023, and the published data set (https://github.com/ssundaram21/dreamsim/tree/main/dataset).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dreamsim_guidance.study.dealing import deal
from dreamsim_guidance.study.design import TARGET, Mode, Unit, arrange
from dreamsim_guidance.study.exporter import catch_references, complete, other_shapes, write_study
from dreamsim_guidance.study.final_set import FinalSet, write_final_set
from dreamsim_guidance.study.folder import check_free, is_there
from dreamsim_guidance.study.page import Page
from dreamsim_guidance.study.reader import Outcome, tally
from dreamsim_guidance.study.record import Study, read_record
from dreamsim_guidance.study.round_count import count_round, next_number
from dreamsim_guidance.study.round_rule import PastRound, Round
from dreamsim_guidance.study.triplets import (
    LEFT,
    RIGHT,
    Standing,
    TripletFolder,
    as_reconstructions,
    read_triplets,
    select,
    stamp,
)

__all__ = ["MadeRound", "NextRound", "make_round", "next_round"]


@dataclass(frozen=True)
class MadeRound:
    """A round whose page was written.

    study: the record.
    asked: number of triplets that are shown (pairs in JND).
    answers: smallest and largest number of answers of a participant, catch trials and repeats included.
    idle: participant numbers without any triplet to judge.
    other_shape: pictures whose aspect ratio differs from their reference's.
    """

    study: Study
    asked: int
    answers: tuple[int, int]
    idle: list[int]
    other_shape: list[Path]


@dataclass(frozen=True)
class NextRound:
    """What `next_round` did.

    past: the counts of the round whose votes were read.
    outcome: its votes, and who was left out.
    made: the next round; None after the last one.
    kept: number of triplets in the final set; None before.
    short: triplets without disagreement that have too few votes for the final set.
    returned: participant numbers that took part in an earlier round too.
    written: whether anything was written; False if `to` held the same result already.
    """

    past: PastRound
    outcome: Outcome
    made: MadeRound | None
    kept: int | None
    short: int
    returned: list[int]
    written: bool


def make_round(
    triplets: Path | str,
    to: Path | str,
    *,
    mode: Mode = "2afc",
    participants: int = 20,
    rule: Round | None = None,
    only: Collection[str] | None = None,
    seed: int = 0,
    page: Page | None = None,
    progress: bool = True,
) -> MadeRound:
    """Write the page of the first round of votes on a folder of triplets, or of a round of same-or-different votes.

    triplets: see `read_triplets`.
    to: the study's folder, as of `make_study`; it must be new or empty.
    mode: "2afc" (the default): which candidate is more like the reference? "jnd": are a reference and a candidate, shown
        briefly, the same? Each candidate of each triplet is asked about once.
    participants: how many participant numbers there are, from 1.
    rule: votes for each triplet, number of rounds, who is left out; by default `Round()`, three rounds of two votes.
    only: ids of the triplets that are asked about; by default all.
    seed: of sides, order, assignment and splits.
    page: texts, sizes and times of the page.

    Each triplet is shown to exactly `rule.votes` participants, who get equally many triplets, give or take one. Raises the
    errors of `read_triplets`; ValueError for impossible numbers, broken pictures and a folder `to` that is not empty.
    """
    to, page = Path(to), page or Page()
    check_free(to)
    source = read_triplets(triplets)
    source = source if only is None else select(source, only)
    rule = replace(rule or Round(), number=1, past=(), page=asdict(page))
    if mode == "2afc":
        rule.check_reachable()
    if participants < 1 or seed < 0 or rule.catch < 0 or rule.repeats < 0:
        raise ValueError("participants must be at least 1, catch, repeats and seed at least 0.")
    return _write_round(source, to, mode, participants, rule, seed, page, progress)[0]


def next_round(
    study: Path | str,
    votes: Sequence[Path | str],
    to: Path | str,
    *,
    participants: int | None = None,
    rounds: int | None = None,
    triplets: Path | str | None = None,
    progress: bool = True,
) -> NextRound:
    """Read the votes of a round, drop the triplets on which people disagree, and write the next round or the final set.

    study: the folder of the round.
    votes: the files that people sent back in this round, CSV or JSON, or folders of them.
    to: the folder of the next round, or of the final set after the last round; it must be new or empty, or hold the very same
        result, which is then left as it is. It appears whole or not at all.
    participants: participant numbers of the next round; by default as many as in this one.
    rounds: planned rounds, if the plan is to be changed: more, to ask again about triplets with too few votes, or fewer.
    triplets: the folder of the triplets, if it has been moved since the first round.

    The same study and votes always give the same result. Votes that arrive later are counted by calling this again on the same
    round, with all files, into another folder: the round that was made without them is then obsolete.

    Raises the errors of `read_record` and `read_votes`, among them ValueError for votes of another study or of another round;
    ValueError for a study that is not a round, pictures that have changed, and a next round for which there are too few
    participants.
    """
    folder, to = Path(study), Path(to)
    record = read_record(folder)
    if record.round is None or record.triplets is None:
        raise ValueError(f"'{folder}' is a study of methods, not of triplets; use `study read` for its votes.")
    if record.mode == "jnd":
        raise ValueError(f"'{folder}' asks whether pictures are the same, which no round follows; use `study read`.")
    if participants is not None and participants < 1:
        raise ValueError(f"participants must be at least 1, got {participants}.")
    rule = record.round if rounds is None else replace(record.round, rounds=rounds)
    if rounds is not None:
        rule.check_reachable()
    source = (
        record.triplets if triplets is None else TripletFolder(str(Path(triplets).absolute()), record.triplets.rows)
    )
    outcome = tally(record, votes, rule.least_catch, rule.least_consistency)
    source, past = count_round(record, rule, source, outcome)
    rule = replace(rule, past=(*rule.past, past))
    earlier = {number for round in rule.past[:-1] for number in round.numbers}
    unanimous = [row for row in source.rows if row.dropped == 0]
    result = NextRound(
        past=past,
        outcome=outcome,
        made=None,
        kept=None,
        short=sum(row.votes < rule.least_votes for row in unanimous),
        returned=sorted(earlier & set(past.numbers)) if rule.people == "same" else [],
        written=True,
    )
    number = next_number(rule, unanimous)
    if number is None:
        return _finish(record, source, rule, to, result)
    count = record.participants if participants is None else participants
    rule = replace(rule, number=number)
    made, written = _write_round(source, to, "2afc", count, rule, record.seed, _page(rule), progress, may_exist=True)
    return replace(result, made=made, written=written)


def _page(rule: Round) -> Page:
    try:
        return Page(**(rule.page or {}))
    except TypeError as error:
        raise ValueError(f"the record has settings of the page that no page has ({error}).") from error


def _finish(record: Study, source: TripletFolder, rule: Round, to: Path, result: NextRound) -> NextRound:
    """Write the final set, unless it is there already."""
    rows = stamp(source, source.rows)
    final = FinalSet(rows, rule, record.seed)
    written = not is_there(to, "report.json", final.id)
    if written:
        check_free(to)
        write_final_set(final, source, to)
    return replace(result, kept=len(final.kept), written=written)


def _write_round(
    source: TripletFolder,
    to: Path,
    mode: Mode,
    participants: int,
    rule: Round,
    seed: int,
    page: Page,
    progress: bool,
    may_exist: bool = False,
) -> tuple[MadeRound, bool]:
    """Write a round, unless it is there already and `may_exist`; the second value says whether anything was written."""
    rows = [row for row in source.rows if row.dropped == 0]
    chosen, wanted, shown = _units(rows, mode, rule)
    blocks = deal(wanted, shown, participants, round_seed := seed + 1009 * (rule.number - 1))
    asked = {unit[0] for unit in chosen}
    reconstructions = as_reconstructions(source, [row for row in rows if row.id in asked])
    stamped = {row.id: row for row in stamp(source, rows)}
    source = replace(source, rows=tuple(stamped.get(row.id, row) for row in source.rows))
    references = catch_references(reconstructions, asked, rule.catch, round_seed)
    trials = arrange(chosen, blocks, references, mode=mode, catch=rule.catch, repeats=rule.repeats, seed=round_seed)
    study = Study(
        id="",
        title=page.title,
        mode=mode,
        seed=seed,
        participants=participants,
        methods=(LEFT, RIGHT),
        pictures=(),
        extra=(),
        blocks=tuple(map(tuple, trials)),
        exposure=page.exposure if mode == "jnd" else None,
        triplets=source,
        round=rule,
    )
    answers = [len(block) for block in trials if block]
    made = MadeRound(
        study=complete(study, reconstructions, page),
        asked=len(chosen),
        answers=(min(answers), max(answers)),
        idle=[number for number, block in enumerate(trials, 1) if not block],
        other_shape=[],
    )
    if may_exist and is_there(to, "study.json", made.study.id):
        return made, False
    check_free(to)
    sizes = reconstructions.check(progress)
    write_study(study, reconstructions, page, to, progress)
    return replace(made, other_shape=other_shapes(reconstructions, sizes)), True


def _units(rows: Sequence[Standing], mode: Mode, rule: Round) -> tuple[list[Unit], list[int], list[tuple[int, ...]]]:
    """What is asked about, how many votes each is to get, and the participants to whom it was shown before."""
    if mode == "jnd":
        pairs = {
            (row.ref_path, path): (row.id, name, TARGET)
            for row in rows
            for name, path in ((LEFT, row.left_path), (RIGHT, row.right_path))
        }
        return list(pairs.values()), [rule.votes] * len(pairs), [()] * len(pairs)
    asked = [row for row in rows if row.votes < rule.number * rule.votes]
    return (
        [(row.id, LEFT, RIGHT) for row in asked],
        [rule.number * rule.votes - row.votes for row in asked],
        [row.shown for row in asked],
    )
