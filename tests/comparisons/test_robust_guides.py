"""The comparison of guides at equal success, at toy size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamsim_guidance.comparisons.robust_guides import RobustGuides
from dreamsim_guidance.comparisons.robust_guides_run import at_drop
from dreamsim_guidance.experiment.registry import load


def test_curves_are_read_where_the_guide_reaches_the_drop() -> None:
    curve, values = np.array([0.0, 0.2, 0.6, 0.5]), np.array([1.0, 3.0, 7.0, 9.0])
    assert at_drop(curve, values, 0.4) == pytest.approx(5.0)
    assert at_drop(curve, values, 0.1) == pytest.approx(2.0)
    assert at_drop(curve, values, 0.6) == pytest.approx(7.0)
    assert np.isnan(at_drop(curve, values, 0.7))


@pytest.mark.parametrize("through", ["diffusion", "pixels"])
def test_guides_are_compared_from_the_same_start_and_a_run_is_resumed(tmp_path: Path, through: str) -> None:
    config = load("compare-robust-guides-tiny").config
    if through == "pixels":
        config = replace(config, through="pixels", levels=(2.0, 6.0))
    results = config.run(tmp_path)
    rows = {row["guide"]: row for row in results["rows"]}
    assert list(rows) == ["pocket", "pocket, views=2", "pocket_robust"]
    for curves in results["curves"].values():
        assert curves["guide"][0] == curves["judge"][0] == curves["rms"][0] == 0
        assert curves["factors"][0] == results["curves"]["pocket"]["factors"][0]
        assert curves["frechet"][0] == results["curves"]["pocket"]["frechet"][0]
    for row in rows.values():
        judge, gap = row["judge"], row["gap"]
        assert judge[0] + gap[0] == pytest.approx(row["drop"]) and judge[1] <= judge[0] <= judge[2]
        assert config.levels[0] > 0 and 0 < row["level"] <= config.levels[-1]
    difference = results["differences"]["pocket_robust at 0.1"]["gap"]
    assert difference[0] == pytest.approx(rows["pocket_robust"]["gap"][0] - rows["pocket"]["gap"][0])
    table = (tmp_path / "table.md").read_text()
    assert "pocket, views=2" in table and len(list((tmp_path / "samples").rglob("*.png"))) == 9
    files = sorted((tmp_path / "cells").iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    assert config.run(tmp_path)["rows"] == results["rows"] and len(files) == 3
    assert [file.stat().st_mtime_ns for file in files] == times


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": 1}, "references must be at least 2"),
        ({"guides": ("pocket", "pocket")}, "guides must be one or more different metrics"),
        ({"guides": ()}, "guides must be one or more different metrics"),
        ({"levels": (0.1, 0.01)}, "levels must be positive numbers in ascending order"),
        ({"levels": (0.0,)}, "levels must be positive numbers in ascending order"),
        ({"through": "pixels"}, "levels of pixels are whole numbers of steps"),
        ({"drops": (1.0,)}, "drops must lie between 0 and 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustGuides(**options)
