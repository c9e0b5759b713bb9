"""The comparison of penalties on optimised noise, at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dreamsim_guidance.comparisons.noise_penalties import NoisePenalties
from dreamsim_guidance.experiment.registry import load


def test_penalties_are_compared_from_the_same_noise_and_a_run_is_resumed(tmp_path: Path) -> None:
    config = load("invert-pocket-noise-tiny").config
    results = config.run(tmp_path)
    rows = {row["penalty"]: row for row in results["rows"]}
    assert list(rows) == ["start", "none", "both"]
    assert rows["none"]["distance"] < rows["start"]["distance"]
    assert set(results["differences"]) == {"both - none"}
    value, low, high = results["differences"]["both - none"]["last tower"]
    assert low <= value <= high
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["rows"] == results["rows"] and (tmp_path / "samples.png").stat().st_size > 1000
    files = sorted((tmp_path / "cells").rglob("*.safetensors"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    assert config.run(tmp_path)["rows"] == results["rows"]
    assert [file.stat().st_mtime_ns for file in files] == times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 1}, "pairs must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"image": -1.0}, "image must be a number of at least 0"),
        ({"levels": (1.0,)}, "levels must be one or more numbers between 0 and 1"),
        ({"penalties": ("none", "none")}, "penalties must be different ones of none, noise, image, both"),
        ({"penalties": ("norm",)}, "penalties must be different ones"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisePenalties(**options)
