"""The analysis as a whole: its files, the reuse of embeddings, failures of single metrics, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from sensitivity import known_metrics as known
from sensitivity.test_known_metrics import write_triplets

from dreamsim_guidance.cli import main
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.metric.backbones import BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.sensitivity import Analysis, sensitivity

SMALL = {"scenes": 4, "triplets": 10, "pictures": 4, "size": 64, "resamples": 100}
QUICK: dict[str, Any] = SMALL
WORDS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def tiny() -> DreamSim:
    torch.manual_seed(0)
    overrides = {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
    return DreamSim(
        [BranchConfig("tiny", "vit_base_patch16_224", image_size=32, feature="cls", overrides=overrides)],
        pretrained=False,
    )


def test_everything_is_written_and_embeddings_are_reused(tmp_path: Path, tiny: DreamSim, monkeypatch: Any) -> None:
    analysis = Analysis(**QUICK)
    result = sensitivity({"tiny": tiny, "mean": known.mean_colour}, analysis, tmp_path / "out", progress=False)
    numbers = json.loads((tmp_path / "out/sensitivity.json").read_text())
    assert numbers["metrics"] == ["tiny", "mean"] and not numbers["failed"]
    assert numbers["factors"]["tiny"]["steps"]["colour"][2]["relative"]["value"] == pytest.approx(
        result.factors["tiny"].steps["colour"][2].relative.value
    )
    assert set(numbers["robustness"]["mean"]["curves"]) >= {
        "noise",
        "blur",
        "jpeg",
        "shift",
        "rotation",
        "scale",
        "hue",
    }
    assert not [e for e in numbers["maps"]["tiny"] if "unavailable" in e]
    files = [entry["file"] for entry in numbers["maps"]["tiny"]]
    assert files and all((tmp_path / "out" / file).read_bytes().startswith(b"\x89PNG") for file in files)
    assert "unavailable" in numbers["maps"]["mean"][1]
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["embeddings"]

    (tmp_path / "out/.pictures").mkdir()
    (tmp_path / "out/.pictures/left_by_a_run_that_was_killed.png").touch()

    def refuse(*_: Any) -> None:
        raise AssertionError("a picture was embedded again")

    monkeypatch.setattr(EmbeddingMetric, "_embed", refuse)
    again = sensitivity({"tiny": tiny}, analysis, tmp_path / "out", progress=False)
    assert again.factors["tiny"].unrelated == result.factors["tiny"].unrelated
    assert not list((tmp_path / "out").glob("map_1_*.png")) and not (tmp_path / "out/.pictures").exists()


def test_leads_are_differences_to_the_first_metric() -> None:
    analysis = Analysis(parts=("factors",), **QUICK)
    profiles = sensitivity({"a": known.luminance, "b": known.mean_colour}, analysis, progress=False).factors
    assert not profiles["a"].share_lead
    for factor, lead in profiles["b"].share_lead.items():
        assert lead.value == pytest.approx(profiles["b"].share[factor].value - profiles["a"].share[factor].value)
    same = sensitivity({"a": known.luminance, "b": known.luminance}, analysis, progress=False).factors["b"]
    assert all(lead.low == lead.high == 0 for lead in same.share_lead.values())


def test_a_metric_that_fails_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such weights")

    analysis = Analysis(parts=("factors", "masks"), **QUICK)
    result = sensitivity({"mine": broken, "mean": known.mean_colour}, analysis, tmp_path, progress=False)
    assert set(result.factors) == set(result.masks) == {"mean"}
    assert result.failed["mine"]["factors"] == "no such weights"
    assert "mine did not run (factors): no such weights" in capsys.readouterr().err
    assert "no such weights" in (tmp_path / "sensitivity.html").read_text()
    with pytest.raises(ValueError, match=r"no metric could run \(mine: no such weights\)"):
        sensitivity({"mine": broken}, analysis, progress=False)


def test_names_of_metrics_are_escaped_on_the_page(tmp_path: Path) -> None:
    analysis = Analysis(parts=("factors", "masks", "features", "robustness"), **QUICK)
    sensitivity({"<b>&$x$": known.mean_colour}, analysis, tmp_path, progress=False)
    page = (tmp_path / "sensitivity.html").read_text()
    assert "&lt;b&gt;&amp;$x$" in page and "<b>&$x$" not in page


def test_own_data_with_depth_and_categories(tmp_path: Path) -> None:
    data = write_triplets(tmp_path / "set", 12)
    (tmp_path / "depth").mkdir()
    pictures = sorted(data.glob("*.png"))
    for file in pictures:
        PILImage.open(file).convert("L").save(tmp_path / "depth" / file.name)
    rows = [f"{file.name},{'odd' if int(file.name.split('_')[0]) % 2 else file.name[-5]}" for file in pictures]
    (tmp_path / "categories.csv").write_text("path,category\n" + "\n".join(rows) + "\n")
    analysis = Analysis(
        parts=("masks", "features", "robustness", "maps"),
        data=data, depth=tmp_path / "depth", categories=tmp_path / "categories.csv", **QUICK,
    )  # fmt: skip
    result = sensitivity({"luma": known.luminance}, analysis, progress=False)
    assert set(result.features["luma"]) == {"colour", "layout", "depth", "category"}
    assert result.features["luma"]["depth"].agreement.value >= 0.7  # the depth maps are the pictures' grey values
    assert any("border's colours" in fact for fact in result.facts)
    assert len(result.maps["luma"]) == 2


def test_judgments_in_memory_are_data_too(tmp_path: Path) -> None:
    judgments = read_nights(write_triplets(tmp_path / "set", 12))
    analysis = Analysis(parts=("masks",), data=judgments, saliency=lambda x: x[0, 0] * 0 + 1, **QUICK)
    masks = sensitivity({"mean": known.mean_colour}, analysis, progress=False).masks["mean"]
    assert masks.foreground.value == 1 and masks.background.value == 0.5  # everything is foreground


def test_sets_with_few_votes_are_accepted(tmp_path: Path) -> None:
    data = write_triplets(tmp_path / "set", 12)
    table = data / "data.csv"
    table.write_text(table.read_text().replace(",1,0,7,", ",1,0,1,"))  # as many as people gave; NIGHTS has at least six
    result = sensitivity([known.luminance], Analysis(parts=("masks",), data=data, **QUICK), progress=False)
    assert result.masks["luminance"].foreground.count == 10


def test_what_does_not_fit_is_refused_before_a_metric_runs(tmp_path: Path) -> None:
    def never(*_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the metric was called")

    data = write_triplets(tmp_path / "set", 12)
    PILImage.new("L", (7, 7)).save(data / "masks/0_r.png")
    analysis = Analysis(data=data, masks=data / "masks", **{**QUICK, "triplets": 12})
    with pytest.raises(ValueError, match="7 x 7 pixels large"):
        sensitivity([never], analysis, progress=False)
    with pytest.raises(ValueError, match="the saliency function 'never' failed with AssertionError"):
        sensitivity([known.luminance], Analysis(saliency=never, scenes=10**9, triplets=10**9), progress=False)  # type: ignore[arg-type]


def test_undefined_numbers_are_null(tmp_path: Path) -> None:
    sensitivity([known.nothing], Analysis(parts=("factors",), **QUICK), tmp_path, progress=False)
    numbers = json.loads((tmp_path / "sensitivity.json").read_text())
    assert numbers["factors"]["nothing"]["share"]["colour"]["value"] is None
    assert numbers["notes"][0].startswith("nothing does not tell")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": ("colour",)}, "unknown part 'colour'; known: factors, masks"),
        ({"parts": ()}, "at least one part"),
        ({"scenes": 3}, "scenes must be at least 4, got 3"),
        ({"triplets": 9}, "triplets must be at least 10"),
        ({"pictures": 0}, "pictures must be at least 4"),
        ({"size": 32}, "size must be at least 64"),
        ({"level": 1.0}, "level must lie between 0 and 1"),
        ({"masks": Path("m")}, "masks goes with data"),
        ({"categories": Path("m")}, "categories goes with data"),
        ({"data": Path("d"), "masks": Path("m"), "saliency": known.luma}, "give one of them"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Analysis(**changes)


def test_too_few_triplets_are_refused(tmp_path: Path) -> None:
    data = write_triplets(tmp_path / "set", 9)
    with pytest.raises(ValueError, match=r"needs at least 10 triplets, and .* has 9"):
        sensitivity([known.luminance], Analysis(parts=("masks",), data=data, **QUICK), progress=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "pocket", "--metric", "pocket"], "the metric 'pocket' is given twice"),
        (["--metric", "mse", "l2"], "the metric 'mse' is given twice"),
        (["--metric", "nonsense"], "unknown metric 'nonsense'"),
        (["--part", "nonsense"], "invalid choice"),
        (["--pair", "a.png", "b.png"], "image not found: 'a.png'"),
        (["--data", "nowhere"], "judgments not found"),
        (["--masks", "nowhere"], "masks goes with data"),
        (["--data", "set", "--masks", "nowhere"], "the folder 'nowhere' of the mask pictures is not there"),
        (
            ["--data", "set", "--saliency", "set.py:f"],
            "the saliency function 'set.py:f' names the file 'set.py', which is not there",
        ),
        (["--saliency", "math:floor"], "the saliency function 'floor' failed with"),
        (["--to", "set/data.csv"], "is a file"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_triplets(Path("set"), 10)
    to = [] if "--to" in words else ["--to", "out"]
    assert main(["sensitivity", *WORDS, *to, *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_the_command_prints_tables_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sensitivity", "--metric", "mse", "--part", "factors", "features", "--part", "masks", *WORDS]
    assert main([*words, "--to", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "foreground alone" in out and "redrawn" in out and "mse, layout" in out
    page = (tmp_path / "out/sensitivity.html").read_text()
    assert page.count("<h2>") == 3 and 'src="http' not in page
