import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study.rounds_of_votes import QUICK, SURE, go_on, make, one_person_disagrees, table
from study.triplet_folders import write_table, write_triplets

from dreamsim_guidance import load_image, save_image
from dreamsim_guidance.data import read_judgments
from dreamsim_guidance.study import (
    Round,
    chance_of_left,
    next_round,
    read_record,
    read_study,
    simulate_votes,
)
from dreamsim_guidance.study.triplets import LEFT, RIGHT


@pytest.fixture
def triplets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.chdir(tmp_path)
    return write_triplets(Path("triplets"))


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
