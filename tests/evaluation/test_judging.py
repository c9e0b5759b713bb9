"""The command `evaluate`, from files to table, JSON and page, and its error messages."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from dreamsim_guidance import save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation.html_report import html_report, write_html
from dreamsim_guidance.evaluation.judging import evaluate, pairs_of
from dreamsim_guidance.evaluation.metrics.named_metrics import file_metric, load_metrics
from dreamsim_guidance.files import network

COLUMNS = "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet"
ODD = "b<&>\"' 青 $x$.png"
"""A name with characters that are special in HTML, matplotlib and CSV files."""


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set in NIGHTS' layout with shares of votes, in two splits and two groups; the cache is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    names = [*(f"{i}.png" for i in range(7)), ODD]
    for name in names:
        save_image(torch.rand(1, 3, 16, 16), tmp_path / "set" / name)
    lines = [COLUMNS]
    for i in range(40):
        a, b, c = (names[j % 8] for j in (i, i + 1 + i % 3, i + 5))
        quoted = ",".join('"' + name.replace('"', '""') + '"' for name in (a, b, c))
        lines.append(f"{i},{i % 5 / 4},{1 - i % 5 / 4},4,{quoted},{'val' if i % 4 else 'test'},{i % 2 == 0}")
    (tmp_path / "set" / "data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    exit_code = main(["evaluate", *words])
    out, err = capsys.readouterr()
    assert exit_code == code, err
    return out, err


def test_a_table_has_rules_parts_and_what_people_reach(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, "set", "--metric", "pocket", "mse", "psnr")
    assert "set: 40 triplets, 8 references, 8 images" in out
    assert re.search(r"^ +fraction +majority +unanimous$", out, re.MULTILINE)
    assert re.search(r"^mse +0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", out, re.MULTILINE)
    assert "lead over pocket" in out and "split (fraction)" in out and "group (fraction)" in out
    assert "one person agrees with another (fraction): 0." in out
    assert re.search(r"pocket: 8 images in \d+\.\d s \(\d+\.\d images/s\)", err)
    assert "pocket: 8 images, all from the cache" in run(capsys, "set", "--metric", "pocket")[1]
    assert "pocket: 8 images in" in run(capsys, "set", "--metric", "pocket", "--no-cache")[1]


def test_json_has_everything(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "set", "--metric", "pocket", "mse", "--json", "--rule", "majority", "--split", "val")
    content = json.loads(out)
    assert list(content["agreement"]["mse"]) == ["majority"] and content["source"] == "set, split val"
    assert content["agreement"]["pocket"]["majority"]["count"] == sum(1 for i in range(40) if i % 4 and i % 5 != 2)
    assert content["work"]["pocket"]["per_second"] > 0 and content["failed"] == {}
    assert {"imagenet", "other"} == set(content["groups"]) and content["splits"] == {}
    assert len(content["curves"]["mse"]["bins"]) > 2 and "equal votes are left out" in content["measures"]["majority"]
    assert run(capsys, "set", "--metric", "pocket", "mse", "--json", "--rule", "majority", "--split", "val")[0]


def test_the_former_name_of_mse_selects_it_under_its_true_name(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("l2",), ("l2", "mse")):
        out, _ = run(capsys, "set", "--metric", *words, "--json", "--resamples", "200")
        assert list(json.loads(out)["agreement"]) == ["mse"]
    assert list(load_metrics(["l2", "psnr", "mse"])) == ["mse", "psnr"] and file_metric("l2").name == "mse"


def test_intervals_come_from_the_seed(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("set", "--metric", "mse", "--json", "--resamples", "200", "--seed")
    first, repeated, other_seed = (json.loads(run(capsys, *words, seed)[0])["agreement"] for seed in ("1", "1", "2"))
    assert first == repeated != other_seed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("set", "--metric", "ensemble_v2"), "unknown metric 'ensemble_v2'; known:"),
        (("set", "--split", "nowhere"), "its splits: test, val"),
        (("set", "--kind", "nihgts"), "unknown kind 'nihgts'; known: nights"),
        (("set", "--metric", "mse", "--rule", "round"), "unknown rule 'round'; known: fraction"),
        (("set", "--metric", "mse", "--rule", "odd-one-out"), "the rule odd-one-out is for sets of kind things"),
        (("none",), "judgments not found: 'none'"),
        (("set", "--cache", "x", "--no-cache"), "--cache and --no-cache exclude each other"),
        (("set", "--metric", "mse", "--html", "."), "'.' is a folder"),
        (("set", "--metric", "mse", "--workers", "-1"), "--workers must be at least 0, got -1"),
        (("set", "--metric", "mse", "--batch", "0"), "--batch must be at least 1, got 0"),
        (("set", "--metric", "mse", "--resamples", "3"), "at least 100 resamples, got 3"),
        (("set", "--metrik", "mse"), "unknown options: --metrik"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(
    workdir: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    out, err = run(capsys, *words, code=2)
    assert out == "" and message in err and err.count("\n") == 1


def test_a_broken_picture_ends_it_at_the_start(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "set" / "3.png").write_bytes(b"no picture")
    for cache in ((), ("--no-cache",)):
        out, err = run(capsys, "set", "--metric", "mse", *cache, code=2)
        assert out == "" and "1 of 8 pictures cannot be read: 'set/3.png'" in err


def test_one_metric_that_fails_leaves_the_others(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "mine.py").write_text(
        "def fails(x, y):\n    raise KeyError('weights')\ndef nan(x, y):\n    return x.flatten(1)[:, 0] / 0\n"
    )
    out, err = run(capsys, "set", "--metric", "mine.py:fails", "mse", "mine.py:nan", "--html", "r.html", code=2)
    assert "mine.py:fails did not run: 'weights'" in err and "mine.py:nan did not run: mine.py:nan is not finite" in err
    assert re.search(r"^mse +0\.", out, re.MULTILINE) and "mine.py:fails" in (workdir / "r.html").read_text()
    out, err = run(capsys, "set", "--metric", "mine.py:fails", code=2)
    assert out == "" and "no metric could run (mine.py:fails: 'weights')" in err


def test_baselines_that_cannot_run_say_so_and_the_others_run(
    workdir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from huggingface_hub import constants

    monkeypatch.setattr(network, "reachable", lambda url: False)
    monkeypatch.setenv("TORCH_HOME", str(workdir / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(workdir / "hub"))
    create = timm.create_model

    def shallow(name: str, pretrained: bool = False, **options: Any) -> Any:
        less: dict[str, Any] = {"layers": (1, 1, 1, 1)} if "resnet" in name else {"depth": 1}
        return create(name, pretrained=pretrained, **{**options, **(less if pretrained else {})})

    monkeypatch.setattr(timm, "create_model", shallow)
    out, err = run(capsys, "set", "--metric", "pocket", "--baselines", "--json")
    content = json.loads(out)
    assert list(content["agreement"]) == ["pocket", "psnr", "ssim"]
    assert set(content["failed"]) == {"ms-ssim", "lpips", "dists", "dino", "clip", "open_clip", "mae", "resnet50"}
    for name, reason in content["failed"].items():
        assert f"{name} did not run: {reason}" in err and "\n" not in reason
    assert "run it once where there is a connection" in content["failed"]["dino"]
    assert "at least 176 x 176" in content["failed"]["ms-ssim"]


def test_distances_are_checked_whoever_made_them(workdir: Path) -> None:
    class Odd:
        name = "odd"

        def distances(self, pairs: Any, progress: bool = True) -> np.ndarray:
            return np.full(len(pairs), np.nan)

    images = tuple((workdir / "set" / f"{i}.png") for i in range(3))
    data = Judgments(images, *(np.array([i, i]) for i in range(3)), np.ones(2), np.zeros(2), ("",) * 2, ("",) * 2)
    lines: list[str] = []
    evaluation = evaluate(data, {"odd": Odd(), "mse": load_metrics(["mse"])["mse"]}, resamples=200, tell=lines.append)
    assert (
        list(evaluation.report.agreement) == ["mse"] and "2 of them NaN" not in lines[0] and "4 of them NaN" in lines[0]
    )
    assert pairs_of(data) == [(images[0], images[1])] * 2 + [(images[0], images[2])] * 2
    with pytest.raises(ValueError, match="the set is empty"):
        evaluate(data.select(np.zeros(2, dtype=bool)), {"mse": file_metric("mse")})


def test_mean_scores_and_same_pairs_go_through_the_command(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "jnd").mkdir()
    lines = ["id,ref_path,distort_path,same,votes"]
    for i in range(6):
        save_image(torch.rand(1, 3, 16, 16), workdir / "jnd" / f"{i}.png")
        lines.append(f"{i},{i}.png,{(i + 1) % 6}.png,{i % 4 / 3},3")
    (workdir / "jnd" / "jnd_votes.csv").write_text("\n".join(lines) + "\n")
    out, _ = run(capsys, "jnd", "--metric", "mse", "psnr", "--html", "jnd.html")
    assert "6 pairs" in out and "average precision" in out and "<img" in (workdir / "jnd.html").read_text()
    assert "rules are for triplets" in run(capsys, "jnd", "--metric", "mse", "--rule", "majority", code=2)[1]
    (workdir / "kadid" / "images").mkdir(parents=True)
    lines = ["dist_img,ref_img,dmos,var"]
    for i in range(3):
        save_image(torch.rand(1, 3, 16, 16), workdir / "kadid" / "images" / f"I0{i}.png")
        for j in range(1, 6):
            name = f"I0{i}_01_0{j}.png"
            save_image(torch.rand(1, 3, 16, 16), workdir / "kadid" / "images" / name)
            lines.append(f"{name},I0{i}.png,{1 + j * 0.7},0.5")
    (workdir / "kadid" / "dmos.csv").write_text("\n".join(lines) + "\n")
    out, _ = run(capsys, "kadid", "--metric", "mse", "pocket", "--html", "kadid.html")
    assert "15 rated pictures, 3 references" in out and "spearman within" in out and "pairs within" in out
    assert "Scores against distances" in (workdir / "kadid.html").read_text()


@pytest.fixture
def page(workdir: Path, capsys: pytest.CaptureFixture[str]) -> str:
    run(capsys, "set", "--metric", "pocket", "mse", "--html", "out/report.html")
    assert [file.name for file in (workdir / "out").iterdir()] == ["report.html"]
    return (workdir / "out" / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file_and_no_network(page: str) -> None:
    sources = re.findall(r'(?:src|href|data|action)="([^"]*)"', page)
    assert len(sources) > 8 and all(source.startswith("data:image/") for source in sources)
    assert "<script" not in page and "http" not in re.sub(r'"data:[^"]*"', "", page) and "url(" not in page
    for kind, data in re.findall(r'"data:image/([a-z+]+);base64,([^"]*)"', page):
        content = base64.b64decode(data, validate=True)
        if kind == "jpeg":
            assert content.startswith(b"\xff\xd8") and len(content) < 20_000
        else:
            ElementTree.fromstring(content)


def test_names_are_escaped(page: str) -> None:
    assert "b&lt;&amp;&gt;&quot;&#x27; 青 $x$.png" in page and "b<&>" not in page


def test_the_page_shows_what_the_report_has(page: str) -> None:
    assert re.search(r"<dt>triplets</dt><dd>40</dd>", page)
    for heading in ("Metrics", "Lead over pocket", "How sure a metric is", "Splits", "Groups", "Hardest disagreements"):
        assert heading in page
    votes = re.findall(r"<span>(\d) votes?</span><span>distance ([\d.e-]+)</span>", page)
    assert len(votes) >= 4 and all(0 <= int(n) <= 4 for n, _ in votes)
    assert page.count("picture people") == page.count("picture machine") == len(votes) // 2


def test_a_page_that_fails_leaves_the_old_one(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "r.html").write_text("old")
    images = tuple((workdir / "set" / f"{i}.png") for i in range(3))
    data = Judgments(images, *(np.array([i, i]) for i in range(3)), np.ones(2), np.zeros(2), ("",) * 2, ("",) * 2)
    evaluation = evaluate(data, load_metrics(["mse"]), resamples=200)
    assert "<h1>" in html_report(evaluation)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_html(evaluation, workdir / "r.html")
    monkeypatch.undo()
    assert (workdir / "r.html").read_text() == "old" and not list(workdir.glob(".r*"))
