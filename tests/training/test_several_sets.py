"""Tuning on several sets at once: their shares, temperatures, validation, pictures held out, and what keeps features near."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judged_pictures import write_judged_pictures
from test_triplet_batches import Numbers
from tiny_tuning import adapter, agreement, difference, last_weights, tuning
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.readers.nights import read_nights
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.metric.ensemble import Ensemble, MLPHead
from dreamsim_guidance.training.metric_with_loss import MetricWithLoss
from dreamsim_guidance.training.triplet_batches import Piece, TripletBatches, TripletSet
from dreamsim_guidance.training.tuning import Tuning
from dreamsim_guidance.training.tuning_sets import InMemory, hold_out, set_names
from dreamsim_guidance.training.vote_losses import VoteLoss, VoteLossConfig


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second set, larger than the fixture `data`, with other pictures."""
    return write_judged_pictures(tmp_path_factory.mktemp("sets") / "other", triplets=60, seed=1)


def dense(pictures: int, triplets: int, seed: int = 0) -> Judgments:
    """Random triplets, of which every picture occurs in many."""
    random = np.random.default_rng(seed)
    columns = np.stack([random.choice(pictures, 3, replace=False) for _ in range(triplets)])
    votes = random.integers(1, 6, (triplets, 2)).astype(np.float64)
    images = tuple(Path(f"{i}.png") for i in range(pictures))
    words = ("",) * triplets
    return Judgments(images, columns[:, 0], columns[:, 1], columns[:, 2], votes[:, 0], votes[:, 1], words, words)


def weights_by_set(pieces: list[Piece]) -> Tensor:
    weights, origin = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("weight", "origin"))
    return torch.bincount(origin, weights=weights)


@pytest.mark.parametrize("pictures", [None, 8])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_set_has_its_share_of_the_loss_whatever_its_size(pictures: int | None, processes: int) -> None:
    sets = [TripletSet(dense(9, 40), Numbers(), "a", 0.75), TripletSet(dense(30, 500, 1), Numbers(), "b", 0.25)]
    parts = [TripletBatches(sets, 16, 20, 0, 3, i, processes, pictures) for i in range(processes)]
    for step in range(20):
        pieces = [piece for part in parts for piece in part[step]]
        torch.testing.assert_close(weights_by_set(pieces), torch.tensor([0.75, 0.25]))


def test_a_triplet_keeps_the_pictures_and_votes_of_its_own_set() -> None:
    judgments = [dense(9, 40), dense(12, 50, 1)]
    sets = [TripletSet(j, Numbers(), share=0.5, untuned=torch.eye(len(j.images)) + n) for n, j in enumerate(judgments)]
    (piece,) = TripletBatches([s for s in sets if len(s.judgments.images) == 12], 50, 1, 0)[0]
    assert piece.untuned.shape == (12, 12)
    rows = set()
    sets = [TripletSet(j, Numbers(), share=0.5) for j in judgments]
    for piece in TripletBatches(sets, 80, 1, 0, piece=7)[0]:
        names = piece.pictures[:, 0, 0, 0].long()
        columns = (piece.origin, names[piece.reference], names[piece.a], names[piece.b], piece.votes_a, piece.votes_b)
        rows |= {tuple(float(x) for x in row) for row in zip(*columns, strict=True)}
    expected = {
        (float(n), *(float(x[i]) for x in (j.reference, j.a, j.b, j.votes_a, j.votes_b)))
        for n, j in enumerate(judgments)
        for i in range(len(j))
    }
    assert rows <= expected and {row[0] for row in rows} == {0.0, 1.0}


def test_a_batch_of_pictures_has_all_triplets_among_them() -> None:
    judgments = dense(20, 400)
    batches = TripletBatches([TripletSet(judgments, Numbers())], 400, 5, 0, pictures=8)
    columns = np.stack([judgments.reference, judgments.a, judgments.b])
    chosen = [batches.triplets(step) for step in range(5)]
    for rows in chosen:
        shown = np.unique(columns[:, rows])
        assert 3 <= len(shown) <= 8
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(np.isin(columns, shown).all(0)))
    assert len({tuple(rows) for rows in chosen}) == 5
    assert len(TripletBatches([TripletSet(judgments, Numbers())], 6, 5, 0, pictures=20).triplets(0)) == 6


def test_pictures_that_occur_once_make_batches_all_the_same() -> None:
    columns = np.arange(60).reshape(20, 3)
    images, votes, words = tuple(Path(f"{i}.png") for i in range(60)), np.ones(20), ("",) * 20
    judgments = Judgments(images, columns[:, 0], columns[:, 1], columns[:, 2], votes, 2 * votes, words, words)
    batches = TripletBatches([TripletSet(judgments, Numbers())], 20, 5, 0, pictures=12)
    assert all(len(batches.triplets(step)) == 4 for step in range(5))


def test_several_sets_give_a_figure_and_a_temperature_each(data: Path, other: Path, tmp_path: Path) -> None:
    loss = VoteLossConfig("logistic", learned=True)
    results = tuning((data, other), loss=loss, shares=(1.0, 3.0)).run(tmp_path)
    named = {data.name: data, "other": other}
    metric = DreamSim(tmp_path / "model.safetensors")
    for name, place in named.items():
        assert results[f"validation agreement on {name}"] == pytest.approx(agreement(metric, place))
    mean = np.mean([results[f"validation agreement on {name}"] for name in named])
    assert results["validation agreement"] == pytest.approx(mean)
    assert results["temperature"].keys() == named.keys() and len(set(results["temperature"].values())) == 2
    assert metric.card["reference"]["temperature"] == results["temperature"]
    assert "'other'" in metric.card["source"]
    assert json.loads((tmp_path / "history.json").read_text())


def test_a_run_on_several_sets_resumes_to_the_same_parameters(data: Path, other: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"pictures": 8, "batch": 20, "loss": VoteLossConfig("bradley_terry"), "average": 0.9}
    tuning((data, other), **changes).run(tmp_path / "whole")
    tuning((data, other), **changes).run(tmp_path / "killed")
    for file in (tmp_path / "killed" / "checkpoints").glob("step-00000008.pt"):
        file.unlink()
    tuning((data, other), **changes).run(tmp_path / "killed")
    assert difference(tmp_path / "whole", tmp_path / "killed") == 0


def test_a_checkpoint_of_other_shares_is_refused(data: Path, other: Path, tmp_path: Path) -> None:
    tuning((data, other)).run(tmp_path)
    with pytest.raises(ValueError, match="is a checkpoint of another run"):
        tuning((data, other), shares=(1.0, 2.0)).run(tmp_path)


def test_held_out_pictures_are_in_no_triplet_of_the_training() -> None:
    judgments = dense(30, 3000)
    rest, held = hold_out(judgments, 0.3, seed=1)
    assert not set(rest.images) & set(held.images) and len(held.images) == 9 and len(rest.images) == 21
    assert len(rest) > 500 and len(held) > 20
    assert set(hold_out(judgments, 0.3, seed=2)[1].images) != set(held.images)


def test_a_run_validates_on_held_out_pictures(other: Path, tmp_path: Path) -> None:
    results = tuning(other, hold_out=0.5).run(tmp_path)
    _, held = hold_out(read_nights(other, "train"), 0.5, seed=0)
    assert results["steps"] == 8 and len(held)
    with pytest.raises(ValueError, match=r"has \d+ triplets for training and 0 for validation"):
        tuning(other, hold_out=0.01).run(tmp_path / "few")


def test_names_of_sets_tell_them_apart() -> None:
    assert set_names([Path("a/nights"), Path("b/shoes")]) == ["nights", "shoes"]
    assert set_names([Path("a/nights"), Path("b/nights"), Path("c")]) == ["a/nights", "b/nights", "c"]


@pytest.mark.parametrize("trained", [{"lora": None, "head": 16}, {}], ids=["head", "adapter"])
def test_regularisation_keeps_the_embedding_near_to_what_it_was(
    other: Path, tmp_path: Path, trained: dict[str, Any]
) -> None:
    moved = []
    images = torch.rand(4, 3, 64, 64)
    before = DreamSim("pocket", baseline=True).embed(images)
    for strength in (0.0, 1000.0):
        folder = tmp_path / str(strength)
        options: dict[str, Any] = {"head_start": "identity"} if "head" in trained else {}
        adapter(other, regularisation=strength, steps=8, batch=40, validate_every=8, **trained, **options).run(folder)
        moved.append(float((DreamSim(folder / "model.safetensors").embed(images) - before).square().sum(1).mean()))
    assert moved[0] > 1e-6 and moved[1] < 0.5 * moved[0]


def test_the_regulariser_does_not_depend_on_pieces(data: Path) -> None:
    judgments = dense(9, 40)
    torch.manual_seed(0)
    metric = tuning(data).metric()
    untuned = torch.nn.functional.normalize(torch.randn(9, 32), dim=1)
    pictures = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    model = MetricWithLoss(metric, VoteLoss(VoteLossConfig()), regularisation=2.0).eval()
    losses = []
    for piece in (None, 7):
        batches = TripletBatches([TripletSet(judgments, InMemory(pictures), untuned=untuned)], 40, 1, 0, piece)
        losses.append(sum(float(model(p.pictures, p)[0].detach()) for p in batches[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_identity_head_changes_nothing_at_first() -> None:
    images = torch.rand(2, 3, 64, 64)
    metric = DreamSim("pocket", baseline=True)
    before = metric.embed(images)
    metric.attach_head(16, identity=True)
    torch.testing.assert_close(metric.embed(images), before)
    metric.attach_head(16)
    assert (metric.embed(images) - before).abs().max() > 1e-3


def test_a_head_sees_weighted_features_at_a_scale_of_one(tiny_weighted: Ensemble, tmp_path: Path) -> None:
    seen: list[Tensor] = []
    metric = DreamSim(tiny_weighted)
    x, y = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    before = metric(x, y)
    head = metric.attach_head(4, identity=True)
    head.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.testing.assert_close(metric(x, y), before, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[0].square().mean(), torch.tensor(1.0))
    metric.save(tmp_path / "model.safetensors", source="", licence="")
    torch.testing.assert_close(DreamSim(tmp_path / "model.safetensors")(x, y), metric(x, y))


@pytest.fixture
def tiny_weighted() -> Ensemble:
    from dreamsim_guidance.metric import BranchConfig

    torch.manual_seed(0)
    return Ensemble([BranchConfig("cnn", "test_resnet", image_size=32, weight=2.0)])


def test_feature_dropout_leaves_the_same_dimensions_out_for_all() -> None:
    head = MLPHead(64, 4)
    torch.nn.init.zeros_(head.fc2.weight)
    torch.nn.init.zeros_(head.fc2.bias)
    head.dropout = 0.5
    x = torch.ones(3, 64)
    y = head.train()(x)
    assert torch.equal(y[0], y[1]) and set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(head.eval()(x), x)


def test_feature_dropout_acts_in_training_only(other: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lora": None, "head": 16, "head_start": "identity"}
    adapter(other, **options).run(tmp_path / "all")
    results = adapter(other, feature_dropout=0.5, **options).run(tmp_path / "dropped")
    assert difference(tmp_path / "all", tmp_path / "dropped") > 0
    assert agreement(DreamSim(tmp_path / "dropped" / "model.safetensors"), other) == pytest.approx(
        results["validation agreement"]
    )
    assert last_weights(tmp_path / "all")


def test_many_triplets_of_few_pictures_have_the_same_loss_and_gradient(data: Path, monkeypatch: Any) -> None:
    from dreamsim_guidance.training import metric_with_loss as home

    judgments = dense(9, 400)
    torch.manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(9, 64), dim=1)
    (piece,) = TripletBatches([TripletSet(judgments, Numbers())], 400, 1, 0)[0]
    results = []
    for size in (2**24, 1):
        monkeypatch.setattr(home, "MANY_NUMBERS", size)
        x = (2 * u).requires_grad_()
        d_a, d_b = home._distances(home.unit(x), piece)
        results.append((d_a, d_b, *torch.autograd.grad((d_a - 2 * d_b).square().sum(), x)))
    for one_by_one, all_pairs in zip(*results, strict=True):
        torch.testing.assert_close(all_pairs, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "data must name at least one set"),
        ({"shares": (1.0, 2.0)}, "shares are one positive number for each set, got .* for 1 sets"),
        ({"shares": (0.0,)}, "shares are one positive number"),
        ({"hold_out": 1.0}, "hold_out is a share of the pictures"),
        ({"regularisation": -1.0}, "regularisation must be a number from 0 on"),
        ({"feature_dropout": 0.5}, "feature_dropout is a share .* of what a head sees"),
        ({"feature_dropout": 1.0, "head": 4}, "feature_dropout is a share"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tuning(**{"data": Path("nights"), "model": "pocket", **changes})


def test_a_hinge_has_no_temperature_to_learn() -> None:
    with pytest.raises(ValueError, match="the hinge has a margin and no temperature"):
        VoteLossConfig("hinge", learned=True)


def test_a_learned_temperature_of_each_set_acts_on_its_triplets_alone() -> None:
    loss = VoteLoss(VoteLossConfig("logistic", temperature=0.1, learned=True), sets=2)
    with torch.no_grad():
        loss.log_temperature[1] = np.log(0.2)  # type: ignore[index]
    d_a, d_b, votes = torch.tensor([0.2, 0.2]), torch.tensor([0.4, 0.4]), torch.tensor([1.0, 1.0])
    values = loss(d_a, d_b, votes, 0 * votes, torch.tensor([0, 1]))
    expected = [torch.nn.functional.softplus(torch.tensor(-0.2 / t)) for t in (0.1, 0.2)]
    torch.testing.assert_close(values, torch.stack(expected))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=a"], Path("a")),
        (["data=a (b)"], Path("a (b)")),
        (["data=a,b/c"], (Path("a"), Path("b/c"))),
        (["--data", "a", "b"], (Path("a"), Path("b"))),
    ],
)
def test_sets_are_named_on_the_command_line(words: list[str], expected: Any) -> None:
    assert override(Tuning(Path("x"), "pocket"), words).data == expected
