"""Agreement under attack, from picture files to the report, and metrics that cannot be attacked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamsim_guidance import DreamSim, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation import Attack, attack_triplets, evaluate, load_metrics
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.metrics.named_metrics import file_metric
from dreamsim_guidance.evaluation.metrics.pair_metric import PairMetric
from dreamsim_guidance.evaluation.robustness.attacked_triplets import AttackedDistances
from dreamsim_guidance.evaluation.robustness.robustness import robustness


@pytest.fixture
def judgments(tmp_path: Path) -> Judgments:
    """Twelve triplets over nine noisy pictures in four references; b is nearer by the pixels in most of them."""
    generator = torch.Generator().manual_seed(5)
    images = []
    for i in range(4):
        reference = torch.rand(1, 3, 32, 32, generator=generator)
        for name, amount in (("r", 0.0), ("a", 0.25), ("b", 0.2), ("c", 0.3)):
            noise = torch.randn(1, 3, 32, 32, generator=generator)
            images.append(tmp_path / f"{i}{name}.png")
            save_image((reference + amount * noise).clamp(0, 1), images[-1])
    reference, a, b = np.array([(4 * i, 4 * i + j, 4 * i + k) for i in range(4) for j, k in ((1, 2), (3, 2), (1, 3))]).T
    votes = np.array([1.0, 0.0, 3.0] * 4)
    return Judgments(tuple(images), reference, a, b, votes, 3 - votes, ("",) * 12, ("",) * 12)


def test_the_attack_is_that_on_images(judgments: Judgments, metric: DreamSim) -> None:
    from dreamsim_guidance import load_image
    from dreamsim_guidance.evaluation import pgd

    attack = Attack("linf", 2 / 255, steps=3)
    result = attack_triplets(EmbeddingMetric("tiny", metric, batch=4), judgments, [attack], seed=7, progress=False)
    clean = EmbeddingMetric("tiny", metric).distances(
        [(judgments.images[i], judgments.images[j]) for i, j in zip(judgments.reference, judgments.a, strict=True)]
    )
    assert np.allclose(result.clean_a, clean, atol=1e-6)
    for row in range(3):
        reference, a, b = (
            load_image(judgments.images[column[row]]) for column in (judgments.reference, judgments.a, judgments.b)
        )
        preferred = a if result.prefers_a[row] else b
        expected = pgd(metric.target(reference), preferred, attack, 7, enough=None).distance
        assert result.attacked["linf:2/255"][row] <= float(expected) + 1e-5
        assert result.attacked["linf:2/255"][row] > min(result.clean_a[row], result.clean_b[row])
        a_under, b_under = result.under("linf:2/255")
        unchanged = b_under if result.prefers_a[row] else a_under
        assert unchanged[row] == max(result.clean_a[row], result.clean_b[row])


def test_neither_batch_nor_order_nor_sample_changes_an_attack(judgments: Judgments) -> None:
    def smooth(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # image by image: not even rounding sees the batch
        return torch.stack([(a - b).square().sin().sum() for a, b in zip(x, y, strict=True)])

    attacks = [Attack("linf", 1 / 255, steps=2), Attack("l2", 0.1, steps=2)]
    whole = attack_triplets(PairMetric("smooth", smooth, batch=12), judgments, attacks, 3, progress=False)
    order = np.array([7, 0, 11, 4])
    few = attack_triplets(PairMetric("smooth", smooth, batch=1), judgments.select(order), attacks, 3, progress=False)
    same = attack_triplets(PairMetric("smooth", smooth, batch=5), judgments, attacks, 3, progress=False)
    for name in ("linf:1/255", "l2:0.1"):
        turned = whole.attacked[name] > np.maximum(whole.clean_a, whole.clean_b)
        for other, rows in ((few, order), (same, np.arange(12))):
            # a decision that turned may be turned further in a batch with slower ones, and is as good as turned
            assert np.array_equal(other.attacked[name] > np.maximum(other.clean_a, other.clean_b), turned[rows])
            steady = ~turned[rows]
            assert np.array_equal(other.attacked[name][steady], whole.attacked[name][rows][steady])
    assert not np.array_equal(
        attack_triplets(PairMetric("smooth", smooth), judgments, attacks, 4, progress=False).attacked["l2:0.1"],
        whole.attacked["l2:0.1"],
    )


def test_an_attack_never_helps_and_ties_count_as_a() -> None:
    clean_a, clean_b = np.array([1.0, 1.0, 3.0, 1.0]), np.array([2.0, 2.0, 2.0, 1.0])
    attacked = {"l2:1": np.array([5.0, 1.5, 9.0, 1.5])}  # turned, kept, turned, turned
    result = AttackedDistances(clean_a, clean_b, attacked, 32)
    assert result.prefers_a.tolist() == [True, True, False, True]
    a, b = result.under("l2:1")
    assert a.tolist() == [5.0, 1.5, 3.0, 1.5] and b.tolist() == [2.0, 2.0, 9.0, 1.0]
    four = np.arange(4)
    votes_a = np.array([3.0, 3.0, 3.0, 0.0])
    data = Judgments((Path("x"),), four, four, four, votes_a, 4 - votes_a, ("",) * 4, ("",) * 4)
    rows = robustness({"m": result}, data, [Attack("l2", 1.0)], resamples=200).agreement["m"]
    values = {attack: {rule: interval.value for rule, interval in row.items()} for attack, row in rows.items()}
    assert values["none"] == {"fraction": 0.5625, "majority": 0.625, "unanimous": 0.5, "kept": 1.0}
    # the third decision was wrong, and the attack that makes it right is not counted
    assert values["l2:1"] == {
        "fraction": (0.25 + 0.75 + 0.25 + 0.5) / 4,
        "majority": 0.375,
        "unanimous": 0.5,
        "kept": 0.25,
    }


def test_a_stronger_attack_leaves_less(judgments: Judgments, metric: DreamSim) -> None:
    attacks = [Attack("linf", n / 255, steps=4) for n in (1, 4, 16)]
    report = evaluate(
        judgments, {"tiny": EmbeddingMetric("tiny", metric)}, resamples=200, progress=False, attacks=[*attacks, "l2:9"]
    ).report
    assert report.robustness is not None
    kept = [row["kept"].value for row in report.robustness.agreement["tiny"].values()]
    assert kept[0] == 1 and kept[1] >= kept[2] >= kept[3] and kept[3] < 0.3 and kept[4] < 0.3
    assert report.robustness.sizes == {"tiny": 32} and report.robustness.steps["l2:9"] == 10


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim", "pocket"])
def test_named_metrics_can_be_attacked(judgments: Judgments, name: str) -> None:
    result = attack_triplets(
        file_metric(name, cache=False), judgments, [Attack("linf", 8 / 255, steps=4)], progress=False
    )
    assert (result.attacked["linf:8/255"] > np.minimum(result.clean_a, result.clean_b)).all()


def test_pictures_of_different_size_are_attacked_at_the_smallest(tmp_path: Path) -> None:
    shapes = []

    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return (x - y).square().flatten(1).mean(1)

    for name, size in (("r", (20, 30)), ("a", (24, 16)), ("b", (20, 30))):
        save_image(torch.rand(1, 3, *size), tmp_path / f"{name}.png")
    images = tuple(tmp_path / f"{name}.png" for name in "rab")
    data = Judgments(
        images, np.array([0, 0]), np.array([1, 2]), np.array([2, 0]), np.ones(2), np.zeros(2), ("",) * 2, ("",) * 2
    )
    attack_triplets(file_metric(distance), data, [Attack(steps=1)], progress=False)
    assert set(shapes) == {(1, 3, 20, 16), (1, 3, 20, 30)}


MINE = """
import torch
def good(x, y):
    return (x - y).square().flatten(1).mean(1)
def detached(x, y):
    return good(x.detach(), y.detach())
def through_numpy(x, y):
    return torch.from_numpy(((x - y) ** 2).numpy().mean((1, 2, 3)))
def rounded(x, y):
    return ((x * 255).round() - (y * 255).round()).abs().flatten(1).mean(1)
def blind(x, y):
    return torch.arange(len(x)) / 10
"""


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAMSIM_GUIDANCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(MINE)
    lines = ["id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet"]
    for i in range(20):
        save_image(torch.rand(1, 3, 16, 16), tmp_path / "set" / f"{i}.png")
        lines.append(f"{i},{i % 2},{(i + 1) % 2},6,{i}.png,{(i + 1) % 20}.png,{(i + 2) % 20}.png,val,True")
    (tmp_path / "set" / "data.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    exit_code = main(["evaluate", "set", *words])
    out, err = capsys.readouterr()
    assert exit_code == code, err
    return out, err


def test_the_command_reports_table_json_and_page(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--metric", "mse", "mine.py:good", "--attack", "linf:4/255", "--attack", "l2:1", "l2:2", "--sample", "8")
    out, err = run(capsys, *words, "--steps", "3", "--html", "page.html", "--no-cache")
    assert re.search(r"^mse +none +0\.\d{4} \[", out, re.MULTILINE) and "set: 8 triplets" in out
    assert re.search(r"^mine.py:good +l2:2 +0\.\d{4} \[", out, re.MULTILINE)
    assert "linf:4/255 3 steps" in out and "mse 64 x 64, mine.py:good its own size" in out and "mse attacked" in err
    page = (workdir / "page.html").read_text()
    assert "Under attack" in page and "<td>linf:4/255</td>" in page
    content = json.loads(run(capsys, *words, "--json", "--rule", "majority")[0])["robustness"]
    assert list(content["agreement"]["mse"]) == ["none", "linf:4/255", "l2:1", "l2:2"]
    assert list(content["agreement"]["mse"]["l2:1"]) == ["majority", "kept"] and content["steps"]["l2:2"] == 10
    plain = json.loads(run(capsys, "--metric", "mse", "--json")[0])
    assert plain["robustness"] is None and plain["count"] == 20


def test_nothing_of_an_attack_is_cached(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "--metric", "pocket", "--json")
    cache = workdir / "cache" / "embeddings"
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*.*") if file.name != "files.json"}
    run(capsys, "--metric", "pocket", "--json", "--attack", "linf:1/255", "--steps", "1", "--sample", "3")
    assert before and before == {
        file: file.stat().st_mtime_ns for file in cache.rglob("*.*") if file.name != "files.json"
    }


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("detached", "this distance has none"),
        ("through_numpy", "numpy"),
        ("rounded", "is zero for every picture"),
        ("blind", "this distance has none"),
    ],
)
def test_a_metric_without_a_gradient_is_judged_but_not_attacked(
    workdir: Path, capsys: pytest.CaptureFixture[str], function: str, reason: str
) -> None:
    name = f"mine.py:{function}"
    out, err = run(capsys, "--metric", "mse", name, "--attack", "linf:4/255", "--steps", "2", "--json", code=2)
    content = json.loads(out)
    assert name in content["agreement"] and list(content["robustness"]["agreement"]) == ["mse"]
    assert reason in content["failed"][name] and content["failed"][name].startswith("under attack: ")
    assert f"{name} was not attacked: " in err


def test_a_metric_of_files_alone_cannot_be_attacked(judgments: Judgments) -> None:
    class OfFiles:
        name = "files"

        def distances(self, pairs: list[tuple[Path, Path]], progress: bool = True) -> np.ndarray:
            return np.array([len(a.name) / (1 + len(b.name)) for a, b in pairs])

    with pytest.raises(ValueError, match="compares files only"):
        attack_triplets(OfFiles(), judgments, [Attack()])
    lines: list[str] = []
    evaluation = evaluate(judgments, {"files": OfFiles()}, resamples=200, attacks=["l2:1"], tell=lines.append)
    assert "files was not attacked: it compares files only" in lines[-1] and evaluation.attacked == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--attack", "linf"), "written NORM:RADIUS"),
        (("--attack", "l2:1", "linf:4"), "at most 1 for linf"),
        (("--attack", "l2:1", "--steps", "0"), "--steps must be at least 1, got 0"),
        (("--sample", "0"), "--sample must be at least 1, got 0"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(
    workdir: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    out, err = run(capsys, "--metric", "mse", *words, code=2)
    assert out == "" and message in err and err.count("\n") == 1


def test_attacks_and_samples_are_for_triplets(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["id,ref_path,distort_path,same,votes", *(f"{i},{i}.png,{i + 1}.png,{i % 4 / 3},3" for i in range(6))]
    (workdir / "set" / "data.csv").unlink()
    (workdir / "set" / "jnd_votes.csv").write_text("\n".join(lines) + "\n")
    for words in (("--attack", "l2:1"), ("--sample", "3")):
        assert f"{words[0]} is for triplets" in run(capsys, "--metric", "mse", *words, code=2)[1]


def test_a_sample_is_drawn_from_the_seed(judgments: Judgments) -> None:
    first, again, other = (judgments.sample(5, seed) for seed in (0, 0, 1))
    assert len(first) == 5 and first.images == again.images and first.images != other.images
    assert len(judgments.sample(99)) == 12 and load_metrics([]) == {}
    with pytest.raises(ValueError, match="at least 1 triplet, got 0"):
        judgments.sample(0)
