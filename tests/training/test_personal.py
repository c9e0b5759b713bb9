import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from study.reconstructions import METHODS, answer, votes, write_csv, write_folders

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.experiment.registry import load
from dreamsim_guidance.study import Study, make_study, read_study
from dreamsim_guidance.study.design import Trial
from dreamsim_guidance.study.reader import count_votes
from dreamsim_guidance.training.personal import PersonalTuning
from dreamsim_guidance.training.personal_run import held_out_agreement


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study of twelve references; person 1 prefers methods by the alphabet, person 2 the other way round."""
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path, 12)
    study = make_study("targets", METHODS, "study", participants=2, trials=36, progress=False).study

    def contrary(trial: Trial) -> str:
        return answer(trial) if trial.answer is not None else {"left": "right", "right": "left"}[answer(trial)]

    people: list[Callable[[Trial], str]] = [answer, contrary]
    Path("votes").mkdir()
    for number, person in enumerate(people, 1):
        write_csv(Path(f"votes/{number}.csv"), study, number, f"session{number}", votes(study, number, person))
    return study


def settings(**changes: object) -> PersonalTuning:
    personal = load("tune-personal").config
    loop = replace(personal.tuning.loop, batch=4, steps=2, validate_every=1, save_every=1, trackers=())
    tuning = replace(personal.tuning, loop=loop)
    fields = {"study": Path("study"), "votes": (Path("votes"),), "tuning": tuning, **changes}
    return replace(personal, **fields)


def test_one_persons_votes_are_divided_by_reference(study: Study) -> None:
    results = settings(person="session2").run(Path("run"))
    with Path("run/judgments/data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36 and {row["votes"] for row in rows} == {"1"}
    assert {row["right_vote"] for row in rows} == {"1.0"}  # person 2, who prefers the last method
    splits = {name: {row["ref_path"] for row in rows if row["split"] == name} for name in ("train", "val", "test")}
    assert [len(references) for references in splits.values()] == [7, 2, 3]
    assert len(set.union(*splits.values())) == 12
    assert results["held out"]["before"]["clusters"] == 3 and results["held out"]["before"]["count"] == 9
    agreement, gain = held_out_agreement(
        Path("run/judgments"),
        {"before": DreamSim("pocket", baseline=True), "after": DreamSim("run/model.safetensors")},
    )
    assert agreement["after"].value == results["held out"]["after"]["value"]
    assert gain["after"].value == pytest.approx(results["gain"]["value"])
    assert "difference" in Path("run/table.md").read_text()
    DreamSim("pocket", baseline=True, fold=False).load_adapter("run/adapter")
    assert settings(person="session2").run(Path("run"))["held out"] == results["held out"]


def test_an_export_of_a_study_is_tuned_to_as_well(study: Study) -> None:
    read_study("study", ["votes/1.csv"], "export")
    before = Path("export/data.csv").read_bytes()
    settings(study=Path("export"), votes=()).run(Path("run"))
    assert Path("export/data.csv").read_bytes() == before
    judged = read_nights("run/judgments", "train")
    assert set((judged.votes_a + judged.votes_b).tolist()) == {1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"person": "3"},
            r"no single person '3': nobody of that name voted; the sessions are: session1 \(participant 1\)",
        ),
        ({"person": "1", "votes": ()}, "one person's votes are found in the files of votes only"),
        ({"held_out": 0.9}, "whose sum is below 1"),
        ({"validation": 0.0}, "shares of the references above 0"),
    ],
)
def test_settings_without_an_answer_are_refused(study: Study, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes).run(Path("run"))
    assert not Path("run/judgments").exists()


def test_a_person_is_found_by_the_participants_number_if_nobody_else_used_it(study: Study) -> None:
    outcome = count_votes("study", ["votes"], person="2")
    assert [person.session for person in outcome.people] == ["session2"] and outcome.votes == 36
    assert count_votes("study", ["votes"], person="session1").people[0].participant == 1
    write_csv(Path("votes/3.csv"), study, 2, "session3", votes(study, 2))
    with pytest.raises(ValueError, match="several people used that participant's number"):
        count_votes("study", ["votes"], person="2")


def test_studies_of_another_kind_or_of_few_references_are_refused(study: Study) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no data\.csv"):
        settings(votes=()).run(Path("run"))
    few = make_study("targets", METHODS, "few", participants=1, trials=4, catch=0, repeats=0, progress=False).study
    write_csv(Path("few.csv"), few, 1, "s", votes(few, 1))
    with pytest.raises(ValueError, match="at least 8 are needed"):
        settings(study=Path("few"), votes=(Path("few.csv"),)).run(Path("run"))
    same = make_study("targets", METHODS, "same", mode="jnd", participants=1, catch=0, progress=False).study
    write_csv(Path("same.csv"), same, 1, "s", votes(same, 1))
    with pytest.raises(ValueError, match="asks for jnd; 2afc is needed"):
        settings(study=Path("same"), votes=(Path("same.csv"),)).run(Path("run"))


def test_simulated_people_each_get_a_metric_and_judge_all(tmp_path: Path) -> None:
    config = load("tune-simulated-people-tiny").config
    results = config.run(tmp_path)
    assert list(results["held out"]) == ["untuned", "colour", "layout"]
    assert all(list(row) == ["colour", "layout"] for row in results["held out"].values())
    assert "votes by layout" in (tmp_path / "table.md").read_text()


@pytest.mark.slow  # a minute: 2 x 30 steps
def test_each_persons_adapter_agrees_better_with_that_person_than_the_other_adapter_does(tmp_path: Path) -> None:
    config = load("tune-simulated-people").config
    loop = replace(config.personal.tuning.loop, steps=30, trackers=())
    personal = replace(config.personal, held_out=0.4, tuning=replace(config.personal.tuning, loop=loop))
    people = replace(config, personal=personal, people=("colour", "layout"), others=0.0, references=120, trials=400)
    held_out = people.run(tmp_path)["held out"]
    for person, other in (("colour", "layout"), ("layout", "colour")):
        assert held_out[person][person]["value"] > held_out[other][person]["value"] + 0.03
