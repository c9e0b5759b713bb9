"""The whole circle: generated triplets, simulated people in rounds, a tuned adapter, agreement before and after."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dreamsim_guidance.data import read_judgments, read_triplet_rows
from dreamsim_guidance.experiment.registry import load
from dreamsim_guidance.study.record import read_record


@pytest.mark.slow
def test_the_circle_closes_through_the_studys_own_files_and_is_resumed(tmp_path: Path) -> None:
    config = load("whole-circle-tiny").config
    results = config.run(tmp_path)
    rows = read_triplet_rows(tmp_path / "triplets")
    assert {row.way for row in rows} == {"seed", "guide"} and not any(row.votes for row in rows)
    rounds = [read_record(tmp_path / f"round-{number}").round for number in (1, 2, 3)]
    assert [rule.number for rule in rounds if rule] == [1, 2, 3]
    assert len(list((tmp_path / "votes-1").glob("*.json"))) == config.people
    judged = read_judgments(tmp_path / "judged")
    assert len(judged) == results["kept_triplets"] and set(judged.votes_a + judged.votes_b) == {6.0}
    splits = {row.id: row.split for row in rows}
    assert all(row.split == splits[row.id] for row in read_triplet_rows(tmp_path / "judged"))
    held_out = results["agreement"]["all held-out triplets"]
    assert held_out["before"]["count"] == sum(split == "test" for split in splits.values())
    gain = held_out["after"]["value"] - held_out["before"]["value"]
    assert held_out["gain"]["value"] == pytest.approx(gain) and held_out["people"] >= held_out["after"]["value"]
    assert (tmp_path / "tuned" / "adapter").is_dir() and "held-out" in (tmp_path / "table.md").read_text()
    assert json.loads(json.dumps(config.run(tmp_path))) == json.loads(json.dumps(results))


def test_settings_that_close_no_circle_are_refused() -> None:
    config = load("whole-circle").config
    for change, message in (
        ({"people": 5}, "need at least 6 people, got 5"),
        ({"weights": (1.0,)}, "one weight above 0 is needed for each factor"),
        ({"weights": (1.0, 0.0)}, "one weight above 0 is needed for each factor"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"count": 0}, "count must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(config, **change)
