import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study.triplet_folders import write_table, write_triplets

from dreamsim_guidance import load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.data import read_judgments
from dreamsim_guidance.study import (
    MadeRound,
    NextRound,
    Round,
    Study,
    chance_of_left,
    make_round,
    next_round,
    read_record,
    read_study,
    simulate_votes,
)
from dreamsim_guidance.study.design import TARGET
from dreamsim_guidance.study.triplets import LEFT, RIGHT

SURE = {f"t{i}": float(i % 2) for i in range(6)}
"""People agree on every triplet: the right picture of even ones, the left picture of odd ones."""
QUICK = Round(rounds=2, votes=2, least_votes=4, catch=1, repeats=0)


@pytest.fixture
def triplets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.chdir(tmp_path)
    return write_triplets(Path("triplets"))


def make(to: str = "round1", rule: Round = QUICK, participants: int = 6, **options: Any) -> MadeRound:
    return make_round("triplets", to, participants=participants, rule=rule, progress=False, **options)


def go_on(study: str, votes: str, to: str, **options: Any) -> NextRound:
    return next_round(study, [votes], to, progress=False, **options)


def table(file: str) -> dict[str, dict[str, str]]:
    with open(file, newline="") as opened:
        return {row["id"]: row for row in csv.DictReader(opened)}


def one_person_disagrees(study: Study, id: str) -> Callable[[Any], float]:
    """Everybody agrees, except the last participant who is shown the triplet `id`."""
    last = max(t.participant for t in study.trials.values() if t.reference == id and t.kind == "pair")

    def chance(trial: Any) -> float:
        p = chance_of_left(SURE)(trial)
        return 1 - p if trial.reference == id and trial.participant == last else p

    return chance


def test_a_triplet_is_shown_to_as_many_people_as_the_rule_says_and_work_is_shared_evenly(triplets: Any) -> None:
    made = make(participants=4)
    votes = Counter(t.reference for t in made.study.trials.values() if t.kind == "pair")
    assert votes == {f"t{i}": 2 for i in range(6)}
    assert made.answers == (4, 4) and made.idle == []  # three triplets and a catch trial each
    assert made.study == read_record("round1")


def test_triplets_on_which_people_disagree_are_dropped_and_the_others_are_asked_again(triplets: Any) -> None:
    study = make().study
    simulate_votes(study, "votes1", one_person_disagrees(study, "t2"))
    result = go_on("round1", "votes1", "round2")
    assert (result.past.votes, result.past.dropped, result.past.unanimous) == (12, 1, 5)
    assert result.made is not None and result.made.asked == 5 and result.written
    second = read_record("round2")
    assert {t.reference for t in second.trials.values() if t.kind == "pair"} == {"t0", "t1", "t3", "t4", "t5"}
    standing = {row.id: row for row in second.triplets.rows}
    assert (standing["t2"].dropped, standing["t2"].left, standing["t2"].right) == (1, 1, 1)
    assert (standing["t1"].dropped, standing["t1"].left, standing["t1"].right) == (0, 2, 0)


def test_nobody_is_shown_a_triplet_twice_in_several_rounds(triplets: Any) -> None:
    rule = Round(rounds=3, votes=2, least_votes=6, catch=1, repeats=1)
    study, seen = make(rule=rule).study, Counter()
    for round in (1, 2, 3):
        seen.update((t.participant, t.reference) for t in study.trials.values() if t.kind == "pair")
        simulate_votes(study, f"votes{round}", chance_of_left(SURE), seed=round)
        result = go_on(f"round{round}", f"votes{round}", f"round{round + 1}")
        assert result.returned == ([] if round == 1 else [1, 2, 3, 4, 5, 6])
        study = result.made.study if result.made else study
    assert set(seen.values()) == {1} and len(seen) == 36  # six people, each triplet once


def test_with_too_few_people_left_the_next_round_says_how_many_are_needed(triplets: Any) -> None:
    study = make(rule=Round(rounds=3, votes=3, least_votes=9, catch=0, repeats=0), participants=5).study
    simulate_votes(study, "votes1", chance_of_left(SURE))
    with pytest.raises(
        ValueError, match="3 more people, and 3 of the 5 participants have seen it; 1 more participants"
    ):
        go_on("round1", "votes1", "round2")
    assert not Path("round2").exists()
    assert go_on("round1", "votes1", "round2", participants=6).made
    new = Round(rounds=3, votes=3, least_votes=9, catch=0, repeats=0, people="new")
    simulate_votes(make("other", new, participants=5).study, "votes", chance_of_left(SURE))
    assert go_on("other", "votes", "other2").made  # other people every time


def test_the_final_set_has_only_unanimous_triplets_in_nights_layout(triplets: list[dict[str, str]]) -> None:
    study = make(rule=Round(catch=1, repeats=0), participants=8).study
    simulate_votes(study, "votes1", one_person_disagrees(study, "t3"))
    go_on("round1", "votes1", "round2")
    simulate_votes("round2", "votes2", one_person_disagrees(read_record("round2"), "t0"))
    go_on("round2", "votes2", "round3")
    simulate_votes("round3", "votes3", chance_of_left(SURE))
    result = go_on("round3", "votes3", "set")
    assert result.made is None and (result.kept, result.short) == (4, 0)
    rows = table("set/data.csv")
    assert list(next(iter(rows.values())))[:10] == list(triplets[0])
    assert {id: (row["left_vote"], row["right_vote"], row["votes"]) for id, row in rows.items()} == {
        "t1": ("1.0", "0.0", "6"), "t2": ("0.0", "1.0", "6"), "t4": ("0.0", "1.0", "6"), "t5": ("1.0", "0.0", "6")
    }  # fmt: skip
    judgments = read_judgments("set", "nights")  # with the original's filter
    assert len(judgments) == 4 and judgments.votes_a.tolist() == [6.0, 0.0, 0.0, 6.0]
    assert (
        read_judgments("set").votes_a.tolist() == judgments.votes_a.tolist()
    )  # recognised, beside the unfiltered votes
    everything = read_judgments("set", "nights-unfiltered")
    assert len(everything) == 6 and everything.votes_a[[0, 3]].tolist() == [1.0, 1.0]
    for row in triplets:  # the pictures are the files themselves
        for name in ("ref_path", "left_path", "right_path"):
            assert (Path("set") / row[name]).read_bytes() == (Path("triplets") / row[name]).read_bytes()
    report = json.loads(Path("set/report.json").read_text())
    assert (report["triplets"], report["kept"], report["dropped"], report["votes"]) == (6, 4, 2, 12 + 10 + 8)
    assert [round["asked"] for round in report["rounds"]] == [6, 5, 4]


def test_the_rule_of_every_round_is_in_its_record(triplets: Any) -> None:
    make()
    simulate_votes("round1", "votes1", chance_of_left(SURE))
    go_on("round1", "votes1", "round2")
    first, second = (json.loads(Path(f"round{i}/study.json").read_text()) for i in (1, 2))
    for number, content in ((1, first), (2, second)):
        rule = content["round"]
        assert (rule["number"], rule["rounds"], rule["votes"], rule["least_votes"]) == (number, 2, 2, 4)
        assert (rule["least_catch"], rule["people"], content["seed"]) == (0.8, "same", 0)
        assert content["rules"]["round"] == f"Round {number} of 2."
        assert f"bring its votes to {2 * number}" in content["rules"]["votes"]
        assert "disagree is dropped" in content["rules"]["unanimity"] and "80%" in content["rules"]["people left out"]
    assert first["round"]["past"] == [] and second["round"]["past"][0]["study"] == first["id"] != second["id"]


def test_a_triplet_without_votes_stays_in_and_gets_the_votes_that_it_lacks(triplets: Any) -> None:
    study = make().study
    absent = {t.participant for t in study.trials.values() if t.reference == "t1" and t.kind == "pair"}
    simulate_votes(study, "votes1", chance_of_left(SURE), participants=set(range(1, 7)) - absent)
    result = go_on("round1", "votes1", "round2")
    assert result.past.without_votes >= 1 and result.made is not None
    asked = Counter(t.reference for t in result.made.study.trials.values() if t.kind == "pair")
    standing = {row.id: row.votes for row in result.made.study.triplets.rows}
    assert standing["t1"] == 0 and asked == {id: 4 - votes for id, votes in standing.items()}
    absentees = {t.participant for t in result.made.study.trials.values() if t.reference == "t1" and t.kind == "pair"}
    assert absentees & absent  # who did not take part has not seen it


def test_more_rounds_can_be_asked_for_when_votes_are_missing(triplets: Any) -> None:
    study = make().study
    simulate_votes(study, "votes1", chance_of_left(SURE), participants=[1, 2, 3])
    go_on("round1", "votes1", "round2")
    simulate_votes("round2", "votes2", chance_of_left(SURE), participants=[1, 2, 3])
    result = go_on("round2", "votes2", "set")
    assert result.made is None and result.short and result.kept is not None and result.kept + result.short == 6
    more = go_on("round2", "votes2", "round3", rounds=3)
    assert more.made is not None and more.made.study.round.number == 3
    fewer = go_on("round1", "votes1", "set1", rounds=2)
    assert fewer.made is not None
    with pytest.raises(
        ValueError, match="1 rounds of 2 votes for each triplet give 2 votes, and the final set needs 4"
    ):
        go_on("round1", "votes1", "other", rounds=1)


def test_the_same_votes_give_the_same_round_and_nothing_is_written_twice(triplets: Any) -> None:
    simulate_votes(make().study, "votes1", chance_of_left(SURE))
    files = sorted(Path("votes1").iterdir())
    next_round("round1", files, "round2", progress=False)
    next_round("round1", files[::-1], "again", progress=False)  # in any order
    content = {f.relative_to("round2"): f.read_bytes() for f in Path("round2").rglob("*.*")}
    assert content == {f.relative_to("again"): f.read_bytes() for f in Path("again").rglob("*.*")}
    stamps = {file: file.stat().st_mtime_ns for file in Path("round2").rglob("*.*")}
    assert not go_on("round1", "votes1", "round2").written
    assert {file: file.stat().st_mtime_ns for file in Path("round2").rglob("*.*")} == stamps
    simulate_votes("round1", "late", chance_of_left({id: 0.5 for id in SURE}), seed=5, participants=[1, 2])
    with pytest.raises(ValueError, match="'round2' exists already and is not an empty folder"):
        next_round("round1", ["votes1", "late"], "round2", progress=False)
    late = next_round("round1", ["votes1", "late"], "with_late", progress=False)
    assert late.past.votes > 12 and late.outcome.shared == [1, 2]


def test_votes_of_another_round_or_study_are_refused(triplets: Any) -> None:
    simulate_votes(make().study, "votes1", chance_of_left(SURE))
    go_on("round1", "votes1", "round2")
    with pytest.raises(
        ValueError, match=r"belongs to round 1 of this study, and this is round 2: .* into another folder"
    ):
        go_on("round2", "votes1", "round3")
    simulate_votes("round2", "votes2", chance_of_left(SURE))
    with pytest.raises(ValueError, match="belongs to the study"):
        go_on("round1", "votes2", "round3")
    simulate_votes(make("other", seed=3).study, "others", chance_of_left(SURE))
    with pytest.raises(ValueError, match="belongs to the study"):
        go_on("round2", "others", "round3")
    assert not Path("round3").exists()


def test_people_who_fail_catch_trials_do_not_drop_triplets(triplets: Any) -> None:
    study = make(rule=replace(QUICK, catch=3)).study
    simulate_votes(study, "votes1", chance_of_left(SURE))
    for file in Path("votes1").iterdir():
        content = json.loads(file.read_text())
        if content["participant"] == 1:
            for vote in content["votes"]:
                vote["choice"] = {"left": "right", "right": "left"}[vote["choice"]]
            file.write_text(json.dumps(content))
    result = go_on("round1", "votes1", "round2")
    assert (result.past.people, result.past.left_out, result.past.dropped, result.past.votes) == (6, 1, 0, 10)


def test_nothing_in_the_sets_says_who_voted(triplets: Any) -> None:
    simulate_votes(make().study, "votes1", chance_of_left(SURE))
    go_on("round1", "votes1", "round2")
    simulate_votes("round2", "votes2", chance_of_left(SURE))
    go_on("round2", "votes2", "set")
    sessions, times = set(), set()
    for file in (*Path("votes1").iterdir(), *Path("votes2").iterdir()):
        content = json.loads(file.read_text())
        assert re.fullmatch("[0-9a-f]{16}", content["session"])
        sessions.add(content["session"])
        times.update(vote["time"] for vote in content["votes"])
    assert len(sessions) == 12
    tables = [file for file in Path("set").rglob("*") if file.is_file() and file.suffix != ".png"]
    assert sorted(file.name for file in tables) == ["data.csv", "nights_raw.csv", "report.json"]
    for file in tables:
        text = file.read_text()
        for secret in (*sessions, *(id[:6] for id in sessions), *times, "session", 'participant"', "numbers", "2025-"):
            assert secret not in text, (file, secret)
        assert not re.search(r"\bp\d+t\d+\b", text)  # the id of a trial
    # the record, which stays with the person who asks, knows to whom triplets were shown, and nobody's answers
    record = Path("round2/study.json").read_text()
    assert not any(secret in record for secret in (*sessions, *times, "choice"))


def test_sessions_of_one_person_in_two_rounds_cannot_be_linked(triplets: Any) -> None:
    simulate_votes(make().study, "votes1", chance_of_left(SURE))
    go_on("round1", "votes1", "round2")
    simulate_votes("round2", "votes2", chance_of_left(SURE))
    ids = [{json.loads(f.read_text())["session"] for f in Path(name).iterdir()} for name in ("votes1", "votes2")]
    assert not ids[0] & ids[1]


def test_splits_keep_triplets_that_share_a_picture_together(triplets: list[dict[str, str]]) -> None:
    for row in triplets[1:3]:
        row["ref_path"] = triplets[0]["ref_path"]
    triplets[3]["split"] = "val"
    triplets[4]["left_path"] = triplets[3]["right_path"]
    write_table(Path("triplets"), triplets)
    made = make(rule=replace(QUICK, splits=(0.5, 0.0, 0.5)))
    for i in (1, 2):
        simulate_votes(f"round{i}", f"votes{i}", chance_of_left(SURE))
        go_on(f"round{i}", f"votes{i}", f"round{i + 1}")
    splits = {id: row["split"] for id, row in table("round3/data.csv").items()}
    assert splits["t0"] == splits["t1"] == splits["t2"] and splits["t3"] == splits["t4"] == "val"
    assert {splits["t0"], splits["t5"]} <= {"train", "test"}
    assert made.study.round.splits == (0.5, 0.0, 0.5)


def test_votes_of_a_round_can_be_read_as_shares(triplets: list[dict[str, str]]) -> None:
    study = make().study
    files = simulate_votes(study, "votes1", one_person_disagrees(study, "t2"))
    read_study("round1", files, "shares")
    rows = table("shares/data.csv")
    assert set(rows) == set(SURE) and (rows["t2"]["left_vote"], rows["t2"]["votes"]) == ("0.5", "2")
    assert rows["t1"]["left_vote"] == "1.0" and rows["t0"]["prompt"] == "An image of a thing"
    for row, source in zip(rows.values(), triplets, strict=True):
        for name in ("ref_path", "left_path", "right_path"):
            assert (load_image(Path("shares") / row[name]) == load_image(Path("triplets") / source[name])).all()
    assert len(read_judgments("shares", "nights")) == 6


def test_pictures_that_have_changed_or_moved_are_noticed(triplets: list[dict[str, str]]) -> None:
    simulate_votes(make().study, "votes1", chance_of_left(SURE))
    shutil.move("triplets", "elsewhere")
    with pytest.raises(FileNotFoundError):
        go_on("round1", "votes1", "round2")
    assert go_on("round1", "votes1", "round2", triplets="elsewhere").made
    save_image(torch.rand(1, 3, 16, 16), Path("elsewhere") / triplets[1]["left_path"])
    with pytest.raises(ValueError, match="the pictures of the triplet 't1' have changed since the first round"):
        go_on("round1", "votes1", "other", triplets="elsewhere")


def test_only_some_triplets_are_asked_about(triplets: Any) -> None:
    made = make(only=["t4", "t1"], participants=4)
    assert made.asked == 2 and {row.id for row in made.study.triplets.rows} == {"t1", "t4"}
    with pytest.raises(ValueError, match=r"2 ids are not in .*, the first: 'no'"):
        make("other", only=["t1", "no", "none"])


def test_a_round_of_same_or_different_asks_about_each_candidate_once(triplets: list[dict[str, str]]) -> None:
    triplets[1]["ref_path"], triplets[1]["left_path"] = triplets[0]["ref_path"], triplets[0]["left_path"]
    write_table(Path("triplets"), triplets)
    made = make("jnd", rule=Round(votes=3, catch=2, repeats=0), participants=4, mode="jnd")
    assert made.asked == 11
    files = simulate_votes(made.study, "votes", lambda trial: float(LEFT in (trial.left, trial.right)))
    outcome = read_study("jnd", files, "pairs")
    assert outcome.votes == 33
    pairs = read_judgments("pairs", "nights-jnd")
    assert len(pairs) == 11 and set(pairs.votes.tolist()) == {3.0}
    with open("pairs/jnd_votes.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {(row["method"], row["same"]) for row in rows} == {(LEFT, "1.0"), (RIGHT, "0.0")}
    assert {(row["triplet"], row["method"]) for row in rows} >= {("t5", LEFT), ("t5", RIGHT)}
    with pytest.raises(ValueError, match="asks whether pictures are the same, which no round follows"):
        next_round("jnd", files, "next", progress=False)


def test_commands_make_and_continue_rounds(triplets: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "make", "triplets", "--participants", "6", "--votes", "2", "--rounds", "2", "--least-votes", "4"]
    assert main([*words, "--catch", "1", "--to", "round1"]) == 0
    out = capsys.readouterr().out
    assert "round 1 of 2, 6 triplets, up to 2 votes each" in out and "study.json: keep it private" in out
    simulate_votes("round1", "votes1", one_person_disagrees(read_record("round1"), "t5"))
    assert main(["study", "next", "round1", "votes1", "--to", "round2"]) == 0
    out = capsys.readouterr().out
    assert "round 1: 12 votes of 6 people (of 6) on 6 triplets; 1 dropped, 5 unanimous so far" in out
    assert "round 2 of 2, 5 triplets" in out
    simulate_votes("round2", "votes2", chance_of_left(SURE))
    assert main(["study", "next", "round2", "votes2", "--to", "set"]) == 0
    out, err = capsys.readouterr()
    assert "final set: 5 triplets with at least 4 unanimous votes" in out and "took part in an earlier round" in err
    assert main(["study", "next", "round2", "votes2", "--to", "set"]) == 0
    assert "holds this result already; nothing was written" in capsys.readouterr().out
    for words, message in (
        (["make", "triplets", "--trials", "3"], "--trials is for folders of methods"),
        (
            ["make", "triplets", "--rounds", "2"],
            "2 rounds of 2 votes for each triplet give 4 votes, and the final set needs 6",
        ),
        (["make", "votes1"], "no triplets at 'votes1'"),
        (["make", "triplets/ref", "triplets/distort", "x", "--rounds", "2"], "--rounds is for triplets"),
        (["next", "votes1", "votes1"], "no study at 'votes1'"),
    ):
        assert main(["study", *words, "--to", "refused"]) == 2
        assert message in capsys.readouterr().err
        assert not Path("refused").exists()


def test_a_person_is_not_shown_to_be_on_one_side(triplets: Any) -> None:
    sides = Counter()
    for seed in range(8):
        study = make(f"seed{seed}", seed=seed).study
        sides.update(t.left for t in study.trials.values() if t.kind == "pair")
        for trial in study.trials.values():
            assert (
                TARGET in (trial.left, trial.right)
                if trial.kind == "catch"
                else {trial.left, trial.right} == {LEFT, RIGHT}
            )
    assert sides[LEFT] == sides[RIGHT]


def test_rounds_keep_as_many_triplets_as_the_chance_of_unanimous_votes_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_triplets(Path("triplets"), 60, size=8)
    chances = {f"t{i}": 0.8 if i % 2 else 0.5 for i in range(60)}
    make(rule=Round(catch=0, repeats=0), participants=12)
    for round in (1, 2, 3):
        simulate_votes(f"round{round}", f"votes{round}", chance_of_left(chances), seed=round)
        result = go_on(f"round{round}", f"votes{round}", f"round{round + 1}")
    p = np.array(list(chances.values()))
    unanimous = p**6 + (1 - p) ** 6
    assert result.kept is not None
    assert abs(result.kept - unanimous.sum()) < 4 * np.sqrt((unanimous * (1 - unanimous)).sum())
    expected = 2 * (1 + (p**2 + (1 - p) ** 2) + (p**4 + (1 - p) ** 4)).sum()
    votes = sum(past.votes for past in (*read_record("round3").round.past, result.past))
    assert abs(votes - expected) < 4 * np.sqrt(60) * 2  # a triplet's votes lie between 2 and 6


def test_participants_without_work_are_named_and_rounds_without_questions_are_left_out(triplets: Any) -> None:
    made = make(only=["t1", "t2"], participants=6, rule=Round(rounds=3, votes=2, least_votes=4, catch=1, repeats=0))
    assert len(made.idle) == 2 and made.answers == (2, 2)
    assert all(not made.study.blocks[number - 1] for number in made.idle)
    simulate_votes("round1", "votes1", chance_of_left(SURE))
    simulate_votes("round1", "votes1", chance_of_left(SURE), seed=1)  # as many other people under the same numbers
    result = go_on("round1", "votes1", "round2")
    assert result.past.votes == 8 and result.made is not None
    assert result.made.study.round.number == 3 and result.made.asked == 2  # each has the four votes of round 2 already
    enough = go_on("round1", "votes1", "set", rounds=2)
    assert enough.made is None and enough.kept == 2


def test_rounds_end_when_people_disagree_on_everything(triplets: Any) -> None:
    study = make(participants=2).study
    simulate_votes(study, "votes1", lambda trial: float((trial.left == LEFT) == (trial.participant == 1)))
    result = go_on("round1", "votes1", "set")
    assert result.made is None and (result.kept, result.short, result.past.dropped) == (0, 0, 6)
    assert len(read_judgments("set", "nights-unfiltered")) == 6
