"""Several adapters over one base: chosen for a call or for each image, without folding, with the numbers of `set_adapter`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, lively, tiny_branches
from torch import Tensor

from dreamsim_guidance import BranchConfig, DreamSim
from dreamsim_guidance.metric.adapters import attach_adapter
from dreamsim_guidance.metric.ensemble import Ensemble

NAMES = ["one", "two", None, "wide", "one"]


def add(metric: DreamSim, name: str, rank: int, targets: tuple[str, ...] = ("qkv",)) -> None:
    attach_adapter(metric.ensemble, rank, alpha=2.0 * rank, targets=targets, name=name)
    with torch.no_grad():
        for key, parameter in metric.ensemble.named_parameters():
            if f".{name}." in key:
                parameter.normal_(std=0.2)
    metric.eval()
    metric.set_adapter(name)


@pytest.fixture(params=[False, True], ids=["one by one", "stacked"])
def rated(request: pytest.FixtureRequest) -> DreamSim:
    """Three adapters of different ranks, scales and layers."""
    metric = DreamSim(lively(Ensemble(tiny_branches())), fold=False).double()
    add(metric, "one", 2)
    add(metric, "two", 3)
    add(metric, "wide", 4, ("qkv", "attn.proj", "fc1", "fc2"))
    if request.param:
        metric.ensemble.stack()
        assert len(metric.ensemble.stacks) == 1
    return metric


@pytest.fixture
def images() -> Tensor:
    return torch.rand(len(NAMES), 3, 32, 32, dtype=torch.float64)


def by_set_adapter(metric: DreamSim, images: Tensor) -> Tensor:
    """Embeddings, each with its own adapter, one after the other through peft."""
    rows = []
    for name, image in zip(NAMES, images, strict=True):
        metric.set_adapter(name)
        rows.append(metric.embed(image[None]))
    return torch.cat(rows)


def test_each_image_has_its_adapter(rated: DreamSim, images: Tensor) -> None:
    expected = by_set_adapter(rated, images)
    assert (expected - rated.embed(images)).abs().max() > 1e-3
    torch.testing.assert_close(rated.embed(images, adapters=NAMES), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["one", "two", "wide"])
def test_one_adapter_is_chosen_for_a_call(rated: DreamSim, images: Tensor, name: str) -> None:
    rated.set_adapter(name)
    expected = rated.embed(images)
    rated.set_adapter(None)
    torch.testing.assert_close(rated.embed(images, adapters=name), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(rated.embed(images, adapters=[name]), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(rated.embed(images[:1], adapters=["one", name])[1:], expected[:1], atol=1e-12, rtol=0)


def test_towers_that_run_as_one_follow_the_active_adapter(rated: DreamSim, images: Tensor) -> None:
    expected = by_set_adapter(rated, images)
    rated.ensemble.stack()
    assert len(rated.ensemble.stacks) == 1
    torch.testing.assert_close(by_set_adapter(rated, images), expected, atol=1e-12, rtol=0)
    assert len(rated.ensemble.stacks) == 1
    rated.set_adapter("two")
    active = rated.embed(images)
    rated.ensemble.unstack()
    torch.testing.assert_close(rated.embed(images), active, atol=1e-12, rtol=0)


def test_gradients_and_distances_are_those_of_each_adapter(rated: DreamSim, images: Tensor) -> None:
    x, y = images.clone().requires_grad_(), images.flip(-1)
    distance = rated(x, y, adapters=NAMES)
    (gradient,) = torch.autograd.grad(distance.sum(), x)
    for i, name in enumerate(NAMES):
        rated.set_adapter(name)
        z = images[i : i + 1].clone().requires_grad_()
        alone = rated(z, y[i : i + 1])
        torch.testing.assert_close(distance[i : i + 1], alone, atol=1e-12, rtol=0)
        torch.testing.assert_close(gradient[i : i + 1], torch.autograd.grad(alone.sum(), z)[0], atol=1e-11, rtol=1e-8)


def test_a_target_has_its_adapters(rated: DreamSim, images: Tensor) -> None:
    target = rated.target(images.flip(-1), adapters=NAMES)
    expected = rated(images, images.flip(-1), adapters=NAMES)
    rated.set_adapter("two")  # the active adapter is another matter
    torch.testing.assert_close(target(images), expected, atol=1e-12, rtol=0)
    five = rated.target(images[:1], adapters=NAMES)(images[1:2])
    torch.testing.assert_close(five, rated(images[1:2], images[:1], adapters=NAMES), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="without a reduction"):
        rated.target(images, reduction="mean", adapters=NAMES)
    assert rated.target(images, reduction="mean", adapters="one")(images).shape == (5,)


def test_changed_added_and_loaded_adapters_count(rated: DreamSim, images: Tensor, tmp_path: Path) -> None:
    before = rated.embed(images, adapters="two")
    rated.save_adapter(tmp_path, "two")
    with torch.no_grad():
        for name, parameter in rated.ensemble.named_parameters():
            if ".two." in name:
                parameter.mul_(1.5)
    changed = rated.embed(images, adapters="two")
    assert (changed - before).abs().max() > 1e-4
    rated.load_adapter(tmp_path, "stored")
    torch.testing.assert_close(rated.embed(images, adapters="stored"), before, atol=1e-6, rtol=0)
    torch.testing.assert_close(rated.embed(images, adapters="two"), changed, atol=1e-12, rtol=0)


def test_a_single_tower_and_unequal_towers_have_adapters_too(images: Tensor) -> None:
    deep = BranchConfig("deep", "vit_base_patch16_224", image_size=32, overrides={**TINY, "depth": 3})
    for branches in ([deep], [*tiny_branches()[:2], deep]):
        metric = DreamSim(lively(Ensemble(branches)), fold=False).double()
        add(metric, "one", 2)
        add(metric, "two", 2)
        names = ["one", "two", None, "one", "two"]
        together = metric.embed(images, adapters=names)
        for i, name in enumerate(names):
            metric.set_adapter(name)
            torch.testing.assert_close(together[i : i + 1], metric.embed(images[i : i + 1]), atol=1e-12, rtol=0)


def test_folding_leaves_the_active_adapter(rated: DreamSim, images: Tensor) -> None:
    rated.set_adapter("wide")
    expected = rated.embed(images)
    rated.fold()
    torch.testing.assert_close(rated.embed(images), expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="no adapter 'wide' is attached"):
        rated.embed(images, adapters="wide")


def test_adapters_that_cannot_be_chosen_are_refused(rated: DreamSim, images: Tensor) -> None:
    with pytest.raises(ValueError, match="no adapter 'three' is attached; attached: one, two, wide"):
        rated.embed(images, adapters="three")
    with pytest.raises(ValueError, match="one adapter for each image is needed, got 2 for 5 images"):
        rated.embed(images, adapters=["one", "two"])
    with pytest.raises(ValueError, match="an empty list"):
        rated.embed(images, adapters=[])
    with pytest.raises(ValueError, match="no adapter 'three' is attached"):
        rated.ensemble(images, adapters=["three"])
    torch.testing.assert_close(rated.ensemble(images, adapters="two"), rated.ensemble(images, adapters=["two"]))
    layers = [module for module in rated.modules() if hasattr(module, "merge")]
    if layers:
        layers[0].merge()  # type: ignore[operator]
        with pytest.raises(ValueError, match="while one is merged"):
            rated.embed(images, adapters="two")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
def test_adapters_are_chosen_inside_transforms(rated: DreamSim, images: Tensor) -> None:
    rows = torch.vmap(lambda x: rated.embed(x[None], adapters="one")[0])(images)
    torch.testing.assert_close(rows, rated.embed(images, adapters="one"), atol=1e-12, rtol=0)
    both = torch.vmap(lambda x: rated.embed(x[None], adapters=["one", None]))(images)
    torch.testing.assert_close(both[:, 0], rows, atol=1e-12, rtol=0)
    x, y = images, images.flip(-1)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(rated(leaf, y, adapters=NAMES).sum(), leaf)
    gradient = torch.func.grad(lambda x: rated(x, y, adapters=NAMES).sum())(x)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("stacked", [False, True])
def test_names_that_occur_in_the_names_of_modules_are_names(stacked: bool, images: Tensor, tmp_path: Path) -> None:
    metric = DreamSim(lively(Ensemble(tiny_branches())), fold=False).double()
    names = ["0", "1", "attn", "lora_A", "blocks", "a", "aa"]
    for rank, name in enumerate(names, start=1):
        add(metric, name, rank)
    if stacked:
        metric.ensemble.stack()
    expected = metric.embed(images[:1], adapters=names)
    assert torch.cdist(expected, expected).add(torch.eye(len(names))).min() > 1e-3
    again = DreamSim(copy.deepcopy(metric.ensemble), fold=False)
    for name in names:
        metric.save_adapter(tmp_path / name, name)
        again.load_adapter(tmp_path / name, f"{name}_again")
        torch.testing.assert_close(
            again.embed(images[:1], adapters=f"{name}_again"),
            metric.embed(images[:1], adapters=name),
            atol=1e-6,
            rtol=0,
        )
    metric.set_adapter("0", trainable=True)
    trained = [key for key, parameter in metric.named_parameters() if parameter.requires_grad]
    assert len(trained) == 12 and all(".lora_A.0." in key or ".lora_B.0." in key for key in trained)
    with pytest.raises(ValueError, match="is no method of a module, got 'keys'"):
        metric.attach_adapter(name="keys")


@pytest.mark.parametrize("stacked", [False, True])
def test_adapters_may_have_another_precision_than_the_base(stacked: bool, images: Tensor) -> None:
    metric = DreamSim(lively(Ensemble(tiny_branches())), fold=False)
    add(metric, "one", 2)
    add(metric, "two", 3)
    expected = metric.embed(images.float(), adapters=NAMES[:2] * 2 + ["one"])
    metric.bfloat16()
    for key, parameter in metric.named_parameters():
        if ".lora_" in key:
            parameter.data = parameter.data.float()
    if stacked:
        metric.ensemble.stack()
    close = metric.embed(images.float(), adapters=NAMES[:2] * 2 + ["one"])
    torch.testing.assert_close(close, expected, atol=3e-2, rtol=0)


def test_a_target_keeps_its_adapters_when_the_callers_list_changes(rated: DreamSim, images: Tensor) -> None:
    names = list(NAMES)
    target = rated.target(images.flip(-1), adapters=names)
    before = target(images)
    names.reverse()
    torch.testing.assert_close(target(images), before, atol=0, rtol=0)


def test_distance_maps_have_adapters(images: Tensor) -> None:
    branch = replace(tiny_branches()[0], feature="cls_patch")
    metric = DreamSim(lively(Ensemble([branch])), fold=False).double()
    add(metric, "one", 2)
    add(metric, "two", 2)
    maps = metric.distance_map(images[:2], images[2:4], adapters=["one", "two"])
    for i, name in enumerate(("one", "two")):
        metric.set_adapter(name)
        alone = metric.distance_map(images[i : i + 1], images[i + 2 : i + 3])
        torch.testing.assert_close(maps[i : i + 1], alone, atol=1e-12, rtol=0)


def test_folding_without_an_active_adapter_leaves_room_for_others(rated: DreamSim) -> None:
    rated.set_adapter(None)
    rated.fold()
    assert rated.folded_in is None
    rated.attach_adapter(rank=2)


def test_the_originals_adapter_is_one_of_several(tmp_path: Path, narrow_original: None) -> None:
    from official_format import small
    from original_package import narrow_pair

    from dreamsim_guidance.checkpoints.official import load_official

    theirs, _ = narrow_pair(tmp_path, "ensemble", seed=0)
    narrow = small("ensemble", depth=12, dim=32, heads=2, projection=24)
    checkpoint = load_official(narrow, weights=tmp_path, pretrained=False, progress=False)
    metric = DreamSim(checkpoint.ensemble, fold=False, resize=False)
    metric.load_adapter(tmp_path / "ensemble_lora", "original")
    x = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        both = metric.embed(x, adapters=["original", None])
        torch.testing.assert_close(both[:1], theirs.embed(x[:1]), atol=1e-5, rtol=0)
        assert (both[1:] - theirs.embed(x[1:])).abs().max() > 1e-3
