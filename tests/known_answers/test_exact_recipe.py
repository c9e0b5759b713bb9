"""The table of methods against exact posteriors: rows, resumed runs, which cells are exact, and settings that are refused."""

import csv
import json
from pathlib import Path

import pytest

from dreamsim_guidance.known_answers.exact_truth import METHODS, Condition, ExactTruth

TINY = ExactTruth(
    cases=("gaussian-linear", "mixture-quadratic"),
    shape=(1, 2, 2),
    observed=(1,),
    samples=60,
    draws=2,
    steps=(4, 8),
    samplers=("ddim-eta1",),
)


def test_every_method_has_a_row_and_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    results = TINY.run(tmp_path)
    assert results["cells"] == 2 * 2 * len(METHODS) == len(json.loads((tmp_path / "table.json").read_text()))
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == results["cells"]
    table = (tmp_path / "table.md").read_text()
    assert all(case in table for case in TINY.cases) and (tmp_path / "errors.png").stat().st_size > 1000
    exact = {(row["case"], row["method"]) for row in results["left"] if row["exact"]}
    assert ("gaussian-linear", "dps") in exact and ("mixture-quadratic", "dps") not in exact

    cells = sorted((tmp_path / "cells").iterdir())
    times = {cell: cell.stat().st_mtime_ns for cell in cells[1:]}
    cells[0].unlink()
    assert TINY.run(tmp_path)["left"] == results["left"]
    assert {cell: cell.stat().st_mtime_ns for cell in cells[1:]} == times


def test_methods_that_need_noise_have_no_row_for_deterministic_samplers() -> None:
    cells = list(ExactTruth(samplers=("ddpm", "flow"), cases=("gaussian-linear",), steps=(10,)).conditions())
    assert [cell.sampler for cell in cells if cell.method == "dsg"] == ["ddpm"]
    assert len(cells) == 2 * len(METHODS) - 1
    several = list(
        ExactTruth(strengths=(0.5, 2.0), methods=("mmps", "freedom", "none"), samplers=("flow",)).conditions()
    )
    assert {cell.strength for cell in several if cell.method == "mmps"} == {0.5, 2.0}
    assert {cell.strength for cell in several if cell.method != "mmps"} == {1.0}


def test_a_row_is_marked_exact_only_if_its_method_uses_the_exact_score() -> None:
    def exact(case: str, method: str) -> bool:
        return Condition(case, method, "ddim", 1.0, 10).exact

    assert (
        exact("mixture-linear", "none") and exact("gaussian-quadratic", "mmps") and exact("isotropic-quadratic", "lgd")
    )
    assert (
        not exact("mixture-linear", "mmps")
        and not exact("gaussian-quadratic", "lgd")
        and not exact("gaussian-linear", "mpgd")
    )


def test_settings_that_do_not_fit_are_refused() -> None:
    for field, value, message in (
        ("cases", ("gauss-linear",), r"unknown case 'gauss-linear' \(did you mean"),
        ("methods", ("mpdg",), "unknown method 'mpdg'"),
        ("samplers", ("heun",), "unknown sampler 'heun'"),
        ("methods", (), "methods must not be empty"),
        ("steps", (30,), "steps must divide 1000 for ddim, got 30"),
        ("strengths", (0.0,), "strengths must be numbers above 0"),
        ("observed", (0, 0), "observed must be different entries of 0 to 11"),
        ("observed", (12,), "observed must be different entries of 0 to 11"),
        ("weights", (0.5, -0.5), "weights must be one or more numbers above 0"),
        ("samples", 1, "samples must be at least 2"),
        ("correlation", 1.0, r"correlation must lie in \[0, 1\)"),
        ("sigma", 0.0, "sigma must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ExactTruth(**{field: value})
    assert ExactTruth(samplers=("flow",), steps=(30,)).steps == (30,)
