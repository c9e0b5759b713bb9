"""A target keeps its references' embeddings and shares its metric, which it neither moves nor owns."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dreamsim_guidance import DreamSim, Target
from dreamsim_guidance.loss import Loss

MOVES: dict[str, Callable[[nn.Module], object]] = {
    "double": lambda module: module.double(),
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "to dtype": lambda module: module.to(torch.float64),
    "to device": lambda module: module.to("meta"),
    "to device and dtype": lambda module: module.to("meta", torch.float64),
    "to tensor": lambda module: module.to(torch.zeros(1, dtype=torch.float64)),
    "type": lambda module: module.type(torch.float64),
    "to_empty": lambda module: module.to_empty(device="meta"),
}
HOLDERS: dict[str, Callable[[Target], nn.Module]] = {
    "itself": lambda target: target,
    "a sum": lambda target: 2.0 * target + target,
    "a generator": lambda target: nn.ModuleDict({"net": nn.Linear(2, 2), "loss": target}),
}


def where(module: DreamSim) -> set[tuple[torch.dtype, str]]:
    return {(tensor.dtype, tensor.device.type) for tensor in (*module.parameters(), *module.buffers())}


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("move", MOVES)
def test_moving_a_target_leaves_the_metric_and_its_siblings(
    move: str, holder: str, metric: DreamSim, image: torch.Tensor
) -> None:
    target, sibling = metric.target(image[:1]), metric.target(image[1:])
    before, distance = where(metric), sibling(image)
    MOVES[move](HOLDERS[holder](target))
    assert where(metric) == before and sibling.metric is metric
    assert torch.equal(sibling(image), distance)
    moved = target.metric
    assert moved is not metric and where(moved) == {(target.directions.dtype, target.directions.device.type)}
    if target.directions.device.type == "meta":
        assert target(image.to(target.directions)).shape == (2,)
    else:
        tolerance = 1e-6 if target.directions.dtype == torch.float64 else 0.05
        torch.testing.assert_close(
            target(image.to(target.directions)).float(), metric.target(image[:1])(image), atol=tolerance, rtol=0
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.to("cpu"),
        lambda module: module.float(),
        lambda module: module.requires_grad_(),
        lambda module: module.train(),
        lambda module: module.eval(),
        lambda module: module.zero_grad(),
    ],
)
def test_a_change_without_effect_on_the_weights_changes_nothing(
    change: Callable[[nn.Module], object], metric: DreamSim, image: torch.Tensor
) -> None:
    target = metric.target(image[:1])
    distance = target(image)
    change(nn.ModuleDict({"loss": target}))
    assert target.metric is metric and not metric.training and not any(p.requires_grad for p in metric.parameters())
    assert torch.equal(target(image), distance) and not target(image).requires_grad


def test_targets_of_one_metric_share_its_weights(metric: DreamSim, image: torch.Tensor) -> None:
    a, b = metric.target(image[:1]), metric.target(image[1:])
    assert a.metric is b.metric is metric
    metric.double()
    for target in (a, b):
        target.double()
        assert target.metric is metric  # it is there already: no copy


def test_a_model_that_holds_a_target_keeps_its_parameters_and_its_checkpoint(
    metric: DreamSim, image: torch.Tensor
) -> None:
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "loss": metric.target(image[:1])})
    model.double()
    assert list(model.state_dict()) == ["net.weight", "net.bias"] and len(list(model.parameters())) == 2
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_are_independent_and_siblings_in_one_copy_share(
    how: Callable[[nn.ModuleList], nn.ModuleList], metric: DreamSim, image: torch.Tensor
) -> None:
    a, b = how(nn.ModuleList([metric.target(image[:1]), metric.target(image[1:])]))
    assert isinstance(a, Target) and isinstance(b, Target)
    assert a.metric is b.metric is not metric
    assert torch.equal(a(image), metric.target(image[:1])(image))
    a.metric.double()
    assert metric.dtype == torch.float32


def test_a_metric_that_was_moved_away_is_named_with_the_cure(metric: DreamSim, image: torch.Tensor) -> None:
    target = metric.target(image[:1])
    metric.to("meta")
    with pytest.raises(ValueError, match=r"must be on one device, got cpu and meta; use target.to\('meta'\)"):
        target(image.to("meta"))
    assert target.to("meta")(image.to("meta")).shape == (2,) and target.metric is metric


CHANGES: dict[str, Callable[[DreamSim, Path], object]] = {
    "attach": lambda metric, folder: metric.attach_adapter(rank=2, name="other"),
    "load": lambda metric, folder: metric.load_adapter(folder, "other"),
    "choose": lambda metric, folder: metric.set_adapter(None),
    "head": lambda metric, folder: metric.attach_head(4),
}


@pytest.mark.parametrize("change", CHANGES)
def test_adapters_that_come_later_make_the_references_stale(
    change: str, metric: DreamSim, image: torch.Tensor, tmp_path: Path
) -> None:
    metric.attach_adapter(rank=2)
    metric.save_adapter(tmp_path)
    target: Loss = metric.target(image[:1])
    CHANGES[change](metric, tmp_path)
    with pytest.raises(ValueError, match=r"references were embedded before; make a new one with metric.target"):
        target(image)
    assert metric.target(image[:1])(image).shape == (2,)


def test_an_adapter_that_is_chosen_again_serves_its_targets_again(metric: DreamSim, image: torch.Tensor) -> None:
    metric.attach_adapter(rank=2, name="a")
    for parameter in metric.parameters():
        parameter.data += 0.01
    target = metric.target(image[:1])
    distance = target(image)
    metric.set_adapter(None)
    metric.set_adapter("a")
    assert torch.equal(target(image), distance)


def test_folding_does_not_make_references_stale(image: torch.Tensor) -> None:
    metric = DreamSim("pocket", fold=False)
    target = metric.target(image[:1])
    distance = target(image)
    metric.fold()
    torch.testing.assert_close(target(image), distance, atol=1e-6, rtol=0)


def test_a_copy_does_not_see_later_adapters(metric: DreamSim, image: torch.Tensor) -> None:
    target = metric.target(image[:1]).double()
    expected = target(image)
    metric.attach_adapter(rank=2)
    assert torch.equal(target(image), expected)
