"""Rounds under files that were edited, cut off or made up, and processes that are killed while they write."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study.triplet_folders import write_table, write_triplets

from dreamsim_guidance.cli import main
from dreamsim_guidance.study import Round, chance_of_left, make_round, next_round, read_record, simulate_votes

SURE = {f"t{i}": float(i % 2) for i in range(4)}


@pytest.fixture
def triplets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """A folder of triplets, its first round of two, and votes on it."""
    monkeypatch.chdir(tmp_path)
    rows = write_triplets(Path("triplets"), 4)
    rule = Round(rounds=2, votes=1, least_votes=2, catch=1, repeats=0)
    make_round("triplets", "round1", participants=2, rule=rule, progress=False)
    simulate_votes("round1", "votes1", chance_of_left(SURE))
    return rows


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[], None]:
    def edit() -> None:
        file = min(Path("votes1").iterdir())
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def replaced(name: str, text: str | bytes) -> Callable[[], None]:
    return lambda: Path("votes1", name).write_bytes(text if isinstance(text, bytes) else text.encode()) and None


def huge() -> None:
    with Path("votes1", "huge.csv").open("wb") as file:
        file.truncate(65 << 20)  # takes no room on the disk


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edited(lambda c: c["votes"][0].update(trial="p9t9")), "the study has no trial 'p9t9'"),
        (edited(lambda c: c["votes"][0].update(trial="p2t1")), "belongs to participant 2, not to 1"),
        (edited(lambda c: c["votes"].append(c["votes"][0])), "is answered twice"),
        (edited(lambda c: c["votes"][0].update(choice="both")), "choice must be left or right, got 'both'"),
        (edited(lambda c: c["votes"][0].update(milliseconds="nan")), "milliseconds must be finite"),
        (edited(lambda c: c["votes"][0].update(milliseconds=-1)), "milliseconds must be finite and at least 0"),
        (edited(lambda c: c.update(study="000000000000")), "belongs to the study '000000000000'"),
        (edited(lambda c: c.update(participant=0)), "participant must be finite and at least 1"),
        (edited(lambda c: c.update(session="")), "the session is missing"),
        (edited(lambda c: c.update(votes=3)), "is not a file of votes"),
        (edited(lambda c: c.update(votes=["x"])), "is not a file of votes"),
        (edited(lambda c: c.pop("session")), "is not a file of votes"),
        (replaced("deep.json", "[" * 100_000), "is not a file of votes"),
        (replaced("list.json", "[1, 2]"), "is not a file of votes"),
        (replaced("binary.csv", b"\xff\xfe\x00"), "is not a file of votes: it is not text"),
        (replaced("other.csv", "a,b\n1,2\n"), "lacks the column study"),
        (huge, "it has 68,157,440 bytes"),
    ],
)
def test_bad_votes_are_refused_and_nothing_is_written(
    triplets: Any, damage: Callable[[], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage()
    assert main(["study", "next", "round1", "votes1", "--to", "round2"]) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["round1", "triplets", "votes1"]


def test_votes_that_are_given_twice_count_once(triplets: Any) -> None:
    for file in list(Path("votes1").iterdir()):
        Path("votes1", f"copy of {file.name}").write_bytes(file.read_bytes())
    assert next_round("round1", ["votes1", *Path("votes1").iterdir()], "round2", progress=False).past.votes == 4


def record_with(change: Callable[[dict[str, Any]], Any]) -> None:
    file = Path("round1/study.json")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["triplets"]["rows"][0].update(ref_path="../secret.png"),
        lambda c: c["triplets"]["rows"][0].update(left_path="/etc/passwd"),
        lambda c: c["triplets"]["rows"][0].update(left=-3),
        lambda c: c["triplets"]["rows"][0].update(right="1"),
        lambda c: c["triplets"]["rows"][0].update(extra=1),
        lambda c: c["pictures"][0].update(file="../../secret.png"),
        lambda c: c["trials"][0].update(left="x"),
        lambda c: c["trials"][0].update(reference="x"),
        lambda c: c["trials"][0].update(participant=7),
        lambda c: c["round"].update(votes="2"),
        lambda c: c["round"].update(number=5),
        lambda c: c["round"].update(people="anyone"),
        lambda c: c["round"].update(splits=[0.5, 0.1]),
        lambda c: c["round"].update(past=[{}]),
        lambda c: c["round"]["page"].update(colour="red"),
        lambda c: c.update(triplets=[]),
    ],
)
def test_an_edited_record_is_refused(
    triplets: Any, change: Callable[[dict[str, Any]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    record_with(change)
    assert main(["study", "next", "round1", "votes1", "--to", "round2"]) == 2
    error = capsys.readouterr().err
    assert "is not the record of a study" in error or "settings of the page that no page has" in error
    assert not Path("round2").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(ref_path="ref/000/999.png"), "the picture 'triplets/ref/000/999.png' is missing"),
        (lambda rows: rows[1].update(left_path="../votes1/x.png"), "'../votes1/x.png' leaves the folder"),
        (lambda rows: rows[1].update(left_path="/etc/passwd"), "'/etc/passwd' leaves the folder"),
        (lambda rows: rows[1].update(left_path=rows[1]["right_path"]), "a triplet needs three files"),
        (lambda rows: rows[1].update(id="t0"), "the id t0 occurs twice"),
        (lambda rows: rows[1].update(id=""), "has no id"),
        (lambda rows: rows.append({**rows[0], "id": "again"}), "the triplets 't0' and 'again' show the same pictures"),
        (
            lambda rows: rows.append(
                {**rows[0], "id": "again", "left_path": rows[0]["right_path"], "right_path": rows[0]["left_path"]}
            ),
            "the triplets 't0' and 'again' show the same pictures",
        ),
        (lambda rows: rows.clear(), "holds no triplets"),
        (
            lambda rows: Path("triplets", rows[2]["left_path"]).write_bytes(b"no picture"),
            "1 of 12 pictures cannot be read",
        ),
    ],
)
def test_bad_triplets_are_refused_and_nothing_is_written(
    triplets: list[dict[str, str]],
    change: Callable[[list[dict[str, str]]], Any],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(triplets)
    write_table(Path("triplets"), triplets)
    assert main(["study", "make", "triplets", "--participants", "2", "--to", "made"]) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir()) == ["round1", "triplets", "votes1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"participants": 0}, "participants must be at least 1"),
        ({"rounds": 0}, "rounds, votes and least_votes must be at least 1"),
        ({"participants": 1}, "1 more participants are needed"),
    ],
)
def test_impossible_next_rounds_are_refused(triplets: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next_round("round1", ["votes1"], "round2", progress=False, **options)


KILLED = """
import os, signal, sys
from dreamsim_guidance.study import next_round

module, name, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = __import__(module, fromlist=[name])
original, calls = getattr(owner, name), []

def die(*arguments, **options):
    calls.append(1)
    if len(calls) == times:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(owner, name, die)
next_round(sys.argv[4], [sys.argv[5]], sys.argv[6], progress=False)
"""


@pytest.mark.parametrize(
    ("module", "name", "times", "last"),
    [
        ("dreamsim_guidance.study.exporter", "save_image", 3, False),  # after two pictures
        ("dreamsim_guidance.study.exporter", "render", 1, False),  # with all pictures, without the page
        ("os", "replace", 1, False),  # with everything, before it gets its name
        ("shutil", "copyfile", 5, True),  # while the final set is written
    ],
)
def test_a_process_that_is_killed_leaves_the_whole_result_or_nothing(
    triplets: Any, module: str, name: str, times: int, last: bool
) -> None:
    study, votes, to = "round1", "votes1", "round2"
    if last:
        next_round(study, [votes], to, progress=False)
        study, votes, to = "round2", "votes2", "set"
        simulate_votes(study, votes, chance_of_left(SURE))
    command = [sys.executable, "-c", KILLED, module, name, str(times), study, votes, to]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not Path(to).exists()
    assert next_round(study, [votes], to, progress=False).written  # the same command goes on
    next_round(study, [votes], "undisturbed", progress=False)
    content = {file.relative_to(to): file.read_bytes() for file in Path(to).rglob("*.*")}
    assert content == {file.relative_to("undisturbed"): file.read_bytes() for file in Path("undisturbed").rglob("*.*")}
    if not last:
        assert read_record(to).round.number == 2
