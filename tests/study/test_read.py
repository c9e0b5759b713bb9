import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study.reconstructions import METHODS, answer, votes, write_csv, write_folders, write_json

from dreamsim_guidance import load_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.data.readers.nights import read_nights, read_nights_jnd
from dreamsim_guidance.study import Study, make_study, read_study
from dreamsim_guidance.study.design import Trial


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path, 3)
    return make_study("targets", METHODS, "study", participants=4, progress=False).study


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_votes_of_several_people_become_shares_in_nights_layout(study: Study) -> None:
    def contrary(trial: Trial) -> str:
        return answer(trial) if trial.kind == "catch" else {"left": "right", "right": "left"}[answer(trial)]

    files = [write_csv(Path(f"{p}.csv"), study, p, f"s{p}", votes(study, p)) for p in (1, 2, 3)]
    files.append(write_json(Path("4.json"), study, 4, "s4", votes(study, 4, contrary)))
    outcome = read_study("study", files, "out")
    assert (outcome.votes, outcome.judged, len(outcome.people)) == (36, 9, 4)
    table = rows(Path("out/data.csv"))
    assert list(table[0]) == [
        "id", "left_vote", "right_vote", "votes", "ref_path", "left_path", "right_path", "split", "is_imagenet", "prompt",
        "left_method", "right_method",
    ]  # fmt: skip
    # three prefer methods by the alphabet, which is their order, one the other way round
    assert {(row["left_vote"], row["right_vote"], row["votes"]) for row in table} == {("0.75", "0.25", "4")}
    assert {(row["left_method"], row["right_method"]) for row in table} == set(
        zip(("coarse", "coarse", "grainy"), ("grainy", "washed", "washed"), strict=True)
    )
    judgments = read_nights("out")
    assert judgments.votes_a.tolist() == [3.0] * 9 and judgments.votes_b.tolist() == [1.0] * 9
    for row in table:
        stem = Path(row["ref_path"]).stem
        original = load_image(next(Path(row["right_method"]).glob(f"{stem}.*")))
        assert (load_image(Path("out") / row["right_path"]) == original).all()


def test_one_persons_winners_are_read_as_one_vote_each(study: Study) -> None:
    read_study("study", [write_csv(Path("1.csv"), study, 1, "s", votes(study, 1))], "out")
    assert {row["left_vote"] for row in rows(Path("out/data.csv"))} == {"1.0"}
    judgments = read_nights("out")  # not taken for NIGHTS' own winners, of which six votes are asked for
    assert len(judgments) == 9 and set(judgments.votes_a.tolist()) == {1.0} and set(judgments.votes_b.tolist()) == {0.0}
    assert main(["evaluate", "out", "--metric", "mse"]) == 0


def test_repeated_trials_are_no_votes_but_measure_consistency(study: Study) -> None:
    def moody(trial: Trial) -> str:
        return "left" if trial.kind == "repeat" else answer(trial)

    answers = votes(study, 2, moody)
    outcome = read_study("study", [write_csv(Path("2.csv"), study, 2, "s", answers)], "out")
    (person,) = outcome.people
    repeats = [trial for trial in study.blocks[1] if trial.kind == "repeat"]
    assert person.repeats == len(repeats) == 3 and person.votes == outcome.votes == 9
    assert person.consistent == sum(trial.left < trial.right for trial in repeats)
    assert {row["left_vote"] for row in rows(Path("out/data.csv"))} == {"1.0"}


def failing_catch_trials(first: int) -> Callable[[Trial], str]:
    """A person who answers the first `first` catch trials wrongly."""
    left = [first]

    def choose(trial: Trial) -> str:
        if trial.kind == "catch" and left[0]:
            left[0] -= 1
            return "left" if trial.answer == "right" else "right"
        return answer(trial)

    return choose


def test_people_who_fail_catch_trials_are_left_out_by_name(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write_json(Path(f"{p}.json"), study, p, f"s{p}", votes(study, p, failing_catch_trials(p))) for p in (1, 2)]
    assert main(["study", "read", "study", *map(str, files), "--to", "out"]) == 0
    out = capsys.readouterr().out
    assert "participant 1 (s1): 9 votes, catch 4/5, repeats 3/3" in out
    assert "participant 2 (s2): 9 votes, catch 3/5" in out and "LEFT OUT: 3 of 5 catch trials right, 80% needed" in out
    assert (
        "At least 80% of the catch trials answered right" in out and "9 votes of 1 people (of 2) for 9 triplets" in out
    )
    report = json.loads(Path("out/report.json").read_text())
    assert [person["kept"] for person in report["people"]] == [True, False]
    assert report["people"][1]["why"] == "3 of 5 catch trials right, 80% needed" and report["votes"] == 9
    assert "80%" in report["rules"]["catch"] and report["people"][0]["median_milliseconds"] > 900
    assert main(["study", "read", "study", *map(str, files), "--to", "all", "--least-catch", "0.6"]) == 0
    assert {row["votes"] for row in rows(Path("all/data.csv"))} == {"2"}


def test_inconsistent_people_are_left_out_if_asked_for(study: Study) -> None:
    steady = write_csv(Path("1.csv"), study, 1, "s1", votes(study, 1))
    sided = write_csv(Path("2.csv"), study, 2, "s2", votes(study, 2, lambda trial: trial.answer or "left"))
    outcome = read_study("study", [steady, sided], "out", least_consistency=0.5)
    assert [person.why for person in outcome.people] == [None, "0 of 3 repeated trials as before, 50% needed"]
    assert outcome.people[1].first_choice > 0.7
    assert all(person.kept for person in read_study("study", [steady, sided], "both").people)


def test_a_person_who_answered_no_catch_trial_is_left_out(study: Study) -> None:
    answers = [row for row in votes(study, 1) if study.trials[str(row["trial"])].kind != "catch"]
    with pytest.raises(ValueError, match=r"no votes are left \(participant 1: answered no catch trial\); nothing was"):
        read_study("study", [write_csv(Path("1.csv"), study, 1, "s", answers)], "out")
    assert not Path("out").exists()


def test_the_files_of_one_person_count_once_and_the_later_answer_counts(study: Study) -> None:
    answers = votes(study, 1)
    early = [dict(row) for row in answers[:6]]
    early[1]["choice"] = "left" if answers[1]["choice"] == "right" else "right"
    answers[1]["time"] = "2025-01-01T11:00:00.000Z"  # taken back and given anew
    files = [
        write_json(Path("whole.json"), study, 1, "s", answers),
        write_csv(Path("whole.csv"), study, 1, "s", answers),
        write_csv(Path("early.csv"), study, 1, "s", early),
    ]
    outcome = read_study("study", files, "out")
    (person,) = outcome.people
    assert outcome.votes == 9 and person.finished and person.catch_right == person.catch == 5
    assert {row["left_vote"] for row in rows(Path("out/data.csv"))} == {"1.0"}


def test_two_people_with_one_number_are_two_people(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("sent")
    folder.mkdir()
    for name in "ab":
        write_csv(folder / f"{name}.csv", study, 3, name, votes(study, 3))
    (folder / "empty.csv").write_text((folder / "a.csv").read_text().splitlines()[0] + "\n")
    assert main(["study", "read", "study", "sent", "--to", "out"]) == 0
    err = capsys.readouterr().err
    assert "participant number 3 was used by several people" in err and "empty.csv' holds no votes" in err
    assert {row["votes"] for row in rows(Path("out/data.csv"))} == {"2"}


def test_an_unfinished_session_counts_as_far_as_it_goes(study: Study) -> None:
    answers = votes(study, 1)[:8]
    outcome = read_study("study", [write_json(Path("1.json"), study, 1, "s", answers)], "out")
    pairs = sum(trial.kind == "pair" for trial in study.blocks[0][:8])
    assert outcome.votes == pairs < 9 and not outcome.people[0].finished


def test_jnd_votes_become_shares_of_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path, 3)
    study = make_study("targets", METHODS, "study", mode="jnd", participants=2, progress=False).study

    def blind(trial: Trial) -> str:  # takes what is grainy for the same
        return "same" if "grainy" in (trial.left, trial.right) else answer(trial)

    files = [
        write_csv(Path("1.csv"), study, 1, "a", votes(study, 1, blind)),
        write_json(Path("2.json"), study, 2, "b", votes(study, 2)),
    ]
    outcome = read_study("study", files, "out")
    assert (outcome.votes, outcome.judged) == (18, 9)
    judgments = read_nights_jnd("out")
    grainy = ["grainy" in str(judgments.images[b]) for b in judgments.b]
    assert judgments.share_same.tolist() == [0.5 if is_grainy else 0.0 for is_grainy in grainy] and sum(grainy) == 3
    assert set(judgments.votes.tolist()) == {2.0}
    assert {row["method"] for row in rows(Path("out/jnd_votes.csv"))} == set(METHODS)


def changed(name: str, value: Any, place: int = 0) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda given: [{**row, name: value} if i == place else row for i, row in enumerate(given)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("trial", "p9t1"), "line 2: the study has no trial 'p9t1'"),
        (changed("trial", "p2t1"), "line 2: the trial p2t1 belongs to participant 2, not to 1"),
        (changed("trial", "p1t1", 2), "line 4: the trial p1t1 is answered twice"),
        (changed("choice", "both", 1), "line 3: choice must be left or right, got 'both'"),
        (changed("milliseconds", "soon"), "line 2: milliseconds must be a number, got 'soon'"),
    ],
)
def test_malformed_votes_are_refused_with_their_line(
    study: Study, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], message: str
) -> None:
    file = write_csv(Path("1.csv"), study, 1, "s", change(votes(study, 1)))
    with pytest.raises(ValueError, match=message):
        read_study("study", [file], "out")
    assert not Path("out").exists()


def test_votes_of_another_study_are_refused(study: Study) -> None:
    other = make_study("targets", METHODS, "other", seed=9, participants=4, progress=False).study
    for file in (
        write_csv(Path("1.csv"), other, 1, "s", votes(other, 1)),
        write_json(Path("1.json"), other, 1, "s", votes(other, 1)),
    ):
        with pytest.raises(ValueError, match=f"'{file}' belongs to the study '{other.id}', not to '{study.id}'"):
            read_study("study", [file], "out")


def test_other_files_are_refused(study: Study, tmp_path: Path) -> None:
    Path("other.json").write_text('{"study": 1}')
    Path("torn.json").write_text('{"format": "dreamsim_guidance votes 1", "stu')
    Path("table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "none").mkdir()
    for name, message in {
        "other.json": "'other.json' is not a file of votes",
        "torn.json": "'torn.json' is not a file of votes",
        "table.csv": "'table.csv' lacks the column study; it has a, b",
        "coarse/scene 0.jpg": "is not a file of votes: it is not text",
        "missing.csv": "votes not found: 'missing.csv'",
        "none": "'none' holds no .csv and no .json file of votes",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_study("study", [name], "out")


def test_a_broken_study_is_refused(study: Study) -> None:
    file = write_csv(Path("1.csv"), study, 1, "s", votes(study, 1))
    with pytest.raises(FileNotFoundError, match="no study at 'targets'"):
        read_study("targets", [file], "out")
    with pytest.raises(ValueError, match=r"least_catch must be a share between 0 and 1, got 80.0"):
        read_study("study", [file], "out", least_catch=80.0)
    text = Path("study/study.json").read_text()
    Path("study/study.json").write_text(text[:-400])
    with pytest.raises(ValueError, match="is not the record of a study"):
        read_study("study", [file], "out")
    Path("study/study.json").write_text(text)
    (Path("study") / study.pictures[0].file).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 pictures of the study are missing, the first: 'study/images/"):
        read_study("study", [file], "out")
    assert not Path("out").exists()
