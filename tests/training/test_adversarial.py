"""Tuning on pictures that an adversary changes: the inner maximum, exactness, and what it gains."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from judged_pictures import write_judged_pictures
from tiny_tuning import InDouble, adapter, difference, launch, tuning
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.evaluation import Attack, attack_triplets
from dreamsim_guidance.evaluation.metrics.embedding_metric import EmbeddingMetric
from dreamsim_guidance.evaluation.robustness.pgd import random_start
from dreamsim_guidance.metric.distance import half_chord
from dreamsim_guidance.training.adversarial import Adversarial
from dreamsim_guidance.training.adversarial_loss import AdversarialLoss
from dreamsim_guidance.training.metric_with_loss import MetricWithLoss
from dreamsim_guidance.training.triplet_batches import Piece
from dreamsim_guidance.training.vote_losses import VoteLoss, VoteLossConfig


def piece_of(pictures: Tensor) -> Piece:
    """Two triplets over four pictures; picture 1 is a candidate in one and the reference in the other."""
    reference, a, b = torch.tensor([[0, 1], [1, 2], [2, 3]])
    votes = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    of_one_set, no_untuned = torch.zeros(2, dtype=torch.int64), torch.zeros(4, 0)
    return Piece(pictures, reference, a, b, *votes, torch.full((2,), 0.5), of_one_set, no_untuned)


@pytest.fixture
def piece() -> Piece:
    return piece_of((torch.rand(4, 3, 32, 32) * 255).byte())


def terms(metric: DreamSim, piece: Piece, config: Adversarial) -> tuple[float, float]:
    """The loss without the adversary, and the whole one, in training mode."""
    loss = VoteLoss(VoteLossConfig("logistic"))
    plain = MetricWithLoss(metric, loss).train()(piece.pictures, piece)[0]
    whole = MetricWithLoss(metric, loss, None, AdversarialLoss(config, metric)).train()(piece.pictures, piece)[0]
    return float(plain), float(whole)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_adversary_raises_the_loss_on_votes(metric: DreamSim, piece: Piece, norm: str) -> None:
    radius = 4 / 255 if norm == "linf" else 0.5
    plain, small = terms(metric, piece, Adversarial(norm=norm, radius=1e-6, clean_weight=0.0))  # type: ignore[arg-type]
    assert small == pytest.approx(plain, rel=1e-3)
    attacked = [
        terms(metric, piece, Adversarial(norm=norm, radius=radius, steps=n, clean_weight=0.0))[1]  # type: ignore[arg-type]
        for n in (1, 5)
    ]
    assert plain < attacked[0] < attacked[1]
    assert terms(metric, piece, Adversarial(radius=1e-6, weight=2.0))[1] == pytest.approx(3 * plain, rel=1e-3)


def test_the_adversary_moves_embeddings_farther_than_chance(metric: DreamSim, piece: Piece) -> None:
    config = Adversarial("features", steps=3, clean_weight=0.0)
    images = piece.pictures / 255
    u = metric.directions(images)
    by_chance = max(
        float(2 * half_chord(metric.directions(random_start(images, config.attack)), u).mean()) for _ in range(20)
    )
    assert terms(metric, piece, config)[1] > 3 * by_chance


def test_features_are_compared_with_those_before_tuning(metric: DreamSim, piece: Piece) -> None:
    config = Adversarial("features", radius=1e-6, clean_weight=0.0)
    model = MetricWithLoss(metric, VoteLoss(VoteLossConfig()), None, AdversarialLoss(config, metric)).train()
    before = metric.directions(piece.pictures / 255)
    assert float(model(piece.pictures, piece)[0]) < 1e-5
    with torch.no_grad():
        for parameter in metric.parameters():
            parameter.mul_(1.1)
    moved = (metric.directions(piece.pictures / 255) - before).square().sum(1).mean()
    assert float(model(piece.pictures, piece)[0]) == pytest.approx(float(moved), rel=1e-3)
    assert not [name for name in model.state_dict() if "before" in name] and len(list(model.parameters())) == len(
        list(metric.parameters())
    )


def test_only_training_meets_the_adversary(metric: DreamSim, piece: Piece) -> None:
    config = Adversarial(weight=100.0)
    loss = VoteLoss(VoteLossConfig("logistic"))
    model = MetricWithLoss(metric, loss, None, AdversarialLoss(config, metric))
    assert float(model.eval()(piece.pictures, piece)[0]) == float(
        MetricWithLoss(metric, loss).eval()(piece.pictures, piece)[0]
    )


def test_without_their_weight_the_votes_do_not_matter(tmp_path: Path) -> None:
    config = Adversarial("features", steps=1, clean_weight=0.0)
    for name in ("one", "other"):
        data = write_judged_pictures(tmp_path / name)
        if name == "other":
            text = (data / "data.csv").read_text().splitlines()
            rows = [line.split(",") for line in text[1:]]
            text[1:] = [",".join([row[0], row[2], row[1], *row[3:]]) for row in rows]
            (data / "data.csv").write_text("\n".join(text) + "\n")
        tuning(data, steps=3, adversarial=config).run(tmp_path / f"{name} run")
    assert difference(tmp_path / "one run", tmp_path / "other run") == 0


@pytest.mark.exact
@pytest.mark.parametrize("config", [Adversarial(), Adversarial("features", "l2", 0.5)], ids=lambda c: c.kind)
def test_a_run_that_was_cut_off_goes_on_to_the_same_parameters(data: Path, tmp_path: Path, config: Adversarial) -> None:
    run = tuning(data, adversarial=config, average=0.9)
    results = run.run(tmp_path / "whole")
    assert results["step"] == results["steps"] == 8  # the last weights are kept
    shutil.copytree(tmp_path / "whole", tmp_path / "cut off")
    (tmp_path / "cut off" / "checkpoints" / "step-00000008.pt").unlink()
    run.run(tmp_path / "cut off")
    assert difference(tmp_path / "whole", tmp_path / "cut off") == 0
    with pytest.raises(ValueError, match="another"):
        tuning(data, average=0.9).run(tmp_path / "whole")


def test_pieces_share_the_weight_of_the_adversary(data: Path, tmp_path: Path) -> None:
    """With a radius of almost nothing the random starts do not matter, and pieces give what the whole batch gives."""
    for kind in ("distance", "features"):
        config = Adversarial(kind, radius=1e-9, steps=1)  # type: ignore[arg-type]
        for piece in (None, 2):
            tuning(data, InDouble, batch=5, steps=3, piece=piece, adversarial=config).run(tmp_path / f"{kind} {piece}")
        if kind == "distance":  # pictures that two pieces share count twice among features
            assert difference(tmp_path / f"{kind} None", tmp_path / f"{kind} 2") < 1e-6


def test_a_head_alone_sees_pictures(data: Path, tmp_path: Path) -> None:
    results = adapter(data, lora=None, head=8, steps=2, adversarial=Adversarial(steps=1)).run(tmp_path)
    assert results["steps"] == 2


def test_two_processes_train_with_an_adversary(data: Path, tmp_path: Path) -> None:
    runs = {
        tmp_path / "run": {"steps": 2, "adversary": "distance"},
        tmp_path / "features": {"steps": 2, "adversary": "features"},
    }
    process = launch(data, runs, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    assert process.returncode == 0, process.stderr
    assert all((run / "model.safetensors").is_file() for run in runs)


def test_tuning_with_an_adversary_keeps_more_decisions(tmp_path: Path) -> None:
    data = write_judged_pictures(tmp_path / "data", triplets=150)
    judgments = read_nights(data, "val")
    kept = {}
    for name, config in (("plain", None), ("robust", Adversarial(radius=24 / 255, steps=3))):
        tuning(data, batch=50, steps=60, validate_every=60, save_every=60, adversarial=config).run(tmp_path / name)
        metric = EmbeddingMetric(name, DreamSim(tmp_path / name / "model.safetensors"))
        result = attack_triplets(metric, judgments, [Attack("linf", 24 / 255, steps=5)], progress=False)
        kept[name] = float((result.attacked["linf:24/255"] <= np.maximum(result.clean_a, result.clean_b)).mean())
    assert kept["robust"] > kept["plain"] + 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adversarial("noise"), "unknown kind of adversarial tuning 'noise'; known: distance, features"),
        (lambda: Adversarial(weight=0.0), "weight of adversarial tuning must be positive"),
        (lambda: Adversarial(clean_weight=-1.0), "clean_weight of adversarial tuning must be not negative"),
        (lambda: Adversarial(radius=4.0), "at most 1 for linf"),
        (lambda: Adversarial(steps=0), "at least 1 step"),
    ],
)
def test_impossible_adversaries_are_refused(make: Callable[[], Adversarial], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_single_step_is_longer_than_the_radius() -> None:
    assert Adversarial(steps=1, radius=0.1).attack.step == pytest.approx(0.125)
    assert Adversarial(steps=5, radius=0.1).attack.step == pytest.approx(0.05)
    assert Adversarial(steps=1, radius=0.1, step_size=0.02).attack.step == 0.02
