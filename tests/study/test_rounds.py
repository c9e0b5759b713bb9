import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study.rounds_of_votes import QUICK, SURE, go_on, make, one_person_disagrees
from study.triplet_folders import write_triplets

from dreamsim_guidance.cli import main
from dreamsim_guidance.data import read_judgments
from dreamsim_guidance.study import (
    Round,
    chance_of_left,
    next_round,
    read_record,
    simulate_votes,
)
from dreamsim_guidance.study.design import TARGET
from dreamsim_guidance.study.triplets import LEFT, RIGHT


@pytest.fixture
def triplets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.chdir(tmp_path)
    return write_triplets(Path("triplets"))


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


def test_a_round_says_at_once_that_its_people_are_too_few_for_the_later_ones(
    triplets: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["study", "make", "triplets", "--catch", "1", "--participants"]
    assert main([*few, "5", "--to", "five"]) == 0
    assert (
        "5 participants are too few for 3 rounds: a triplet is shown to 6 people in all, to nobody twice. Give `study next "
        "--participants 6` or more from round 3 on"
    ) in capsys.readouterr().err
    for number, options in (("6", []), ("2", ["--people", "new"]), ("2", ["--mode", "jnd"])):
        assert main([*few, number, *options, "--to", f"enough{len(options)}{number}{options[-1:]}"]) == 0
        assert "too few" not in capsys.readouterr().err


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
