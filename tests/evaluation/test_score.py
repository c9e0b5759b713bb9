import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamsim_guidance import DreamSim, load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation.score import by_embedding, by_pixels, judge


@pytest.fixture
def judgments(tmp_path: Path) -> Judgments:
    random = np.random.default_rng(0)
    for i in range(12):
        save_image(torch.rand(1, 3, 20, 24), tmp_path / f"{i}.png")
    reference, a, b = random.permuted(np.tile(np.arange(12), (40, 1)), axis=1)[:, :3].T
    votes = random.integers(0, 5, 40).astype(float)
    words = ("x",) * 40
    return Judgments(tuple(tmp_path / f"{i}.png" for i in range(12)), reference, a, b, votes, 4.0 - votes, words, words)


def test_distances_of_embeddings_are_the_metrics(metric: DreamSim, judgments: Judgments) -> None:
    d_a, d_b = by_embedding(metric, judgments, progress=False)
    pictures = torch.cat([load_image(file) for file in judgments.images])
    for found, candidate in ((d_a, judgments.a), (d_b, judgments.b)):
        np.testing.assert_allclose(found, metric(pictures[judgments.reference], pictures[candidate]).numpy(), atol=1e-6)


def test_each_picture_is_embedded_once(metric: DreamSim, judgments: Judgments) -> None:
    seen = 0

    def count(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(arguments[0])

    metric.ensemble.register_forward_pre_hook(count)
    by_embedding(metric, judgments, progress=False)
    assert seen == len(judgments.images)


def test_a_report_has_every_rule_and_the_lead_over_the_first(judgments: Judgments) -> None:
    people = (judgments.votes_b, judgments.votes_a)  # who has more votes is nearer
    report = judge({"people": people, "pixels": by_pixels(judgments, 8)}, judgments, resamples=200)
    assert report.triplets == 40 and report.references == len(set(judgments.reference.tolist()))
    assert report.agreement["people"]["majority"].value == report.agreement["people"]["unanimous"].value == 1
    assert set(report.lead) == {"pixels"} and report.lead["pixels"]["majority"].high < 0
    assert report.ceiling is not None and report.agreement["people"]["fraction"].value > report.ceiling


def test_evaluate_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        save_image(torch.rand(1, 3, 16, 16), tmp_path / f"{i}.png")
    lines = ["id,left_vote,right_vote,votes,ref_path,left_path,right_path,split"]
    lines += [f"{i},{i % 2},{1 - i % 2},6,{i}.png,{(i + 1) % 4}.png,{(i + 2) % 4}.png,test" for i in range(4)]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    assert main(["evaluate", str(tmp_path), "--metric", "pocket", "l2", "--split", "test"]) == 0
    said = capsys.readouterr().out
    assert "pocket, unanimous" in said and "l2 leads pocket, fraction" in said and "another (fraction): 1.0000" in said
    assert main(["evaluate", str(tmp_path), "--metric", "l2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["l2"]["majority"]["count"] == 4
    assert main(["evaluate", str(tmp_path), "--split", "val"]) == 2
    assert "its splits: test" in capsys.readouterr().err
