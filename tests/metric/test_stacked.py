"""Towers of one geometry as one network: features, gradients and files of the towers one by one, and when that way is taken."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import re
import threading
import weakref
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, lively, tiny_branches
from official_format import small
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dreamsim_guidance import VARIANTS, Branch, BranchConfig, DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble

BOUNDS = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-6, 1e-5)}
"""Largest difference of unit embeddings, relative difference of gradients."""


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def results(metric: DreamSim, images: Tensor, stacked: bool) -> tuple[Tensor, Tensor]:
    """Embedding, and gradient of a distance to the images."""
    metric.ensemble.stack() if stacked else metric.ensemble.unstack()
    x = images.to(metric.dtype).requires_grad_()
    distance = metric(x, images.to(metric.dtype).flip(-1)).sum()
    (gradient,) = torch.autograd.grad(distance, x)
    with torch.no_grad():
        return metric.embed(x), gradient


def agree(metric: DreamSim, images: Tensor) -> None:
    embedding, gradient = results(metric, images, stacked=False)
    stacked_embedding, stacked_gradient = results(metric, images, stacked=True)
    near, relative = BOUNDS[metric.dtype]
    assert (embedding - stacked_embedding).abs().max() <= near
    assert (gradient - stacked_gradient).norm() <= relative * gradient.norm()


def ensemble_of(*branches: BranchConfig) -> DreamSim:
    return DreamSim(lively(Ensemble(branches)), stacked=True)


def places(metric: DreamSim) -> list[list[int]]:
    """Of the towers in each stack."""
    return [sorted(stack.places) for stack in metric.ensemble.stacks]  # type: ignore[union-attr, arg-type]


@pytest.mark.exact
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 1, 0), (1, 1), (0, 2)])
def test_towers_stacked_agree_with_towers_one_by_one(
    order: tuple[int, ...], dtype: torch.dtype, images: Tensor
) -> None:
    """GELU beside QuickGELU, epsilons of 1e-6 beside 1e-5, with and without a norm before the blocks, in any order."""
    metric = ensemble_of(*(replace(tiny_branches()[i], name=f"{place}") for place, i in enumerate(order))).to(dtype)
    assert places(metric) == [list(range(len(order)))]
    agree(metric, images)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", VARIANTS)
def test_published_variants_agree(name: str, dtype: torch.dtype, images: Tensor) -> None:
    """In narrow towers of the published depth, also at a size whose positions are resampled."""
    metric = DreamSim(lively(Ensemble(small(name, depth=12, dim=32, heads=2, projection=24).branches)), dtype=dtype)
    agree(metric, images)
    metric.resize = False
    agree(metric, torch.rand(2, 3, 64, 96))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_pocket_agrees_where_two_of_three_towers_fit_together(dtype: torch.dtype, images: Tensor) -> None:
    metric = DreamSim("pocket", dtype=dtype, stacked=True)
    assert places(metric) == [[1, 2]]
    agree(metric, images)


def test_unequal_towers_are_grouped_by_geometry(images: Tensor) -> None:
    dino, clip, open_clip = tiny_branches()
    deep = replace(dino, name="deep", overrides={**TINY, "depth": 3})
    large = replace(dino, name="large", image_size=48)
    convolution = BranchConfig("convolution", "test_resnet", feature="pooled", image_size=64)
    scaled = replace(dino, name="scaled", overrides={**TINY, "init_values": 0.5})
    dropping = replace(dino, name="dropping", overrides={**TINY, "proj_drop_rate": 0.1})
    branches = deep, dino, large, clip, convolution, replace(deep, name="deep 2"), open_clip, scaled, dropping
    metric = ensemble_of(*branches)
    assert places(metric) == [[0, 5], [1, 3, 6]]
    agree(metric.double(), images)


@pytest.mark.parametrize("features", ["cls_patch", "last_layer"])
def test_other_features_and_layer_scale_agree(features: Any, images: Tensor) -> None:
    branch = replace(tiny_branches()[0], feature=features, overrides={**TINY, "init_values": 0.5, "qkv_bias": False})
    metric = ensemble_of(branch, replace(branch, name="other")).double()
    assert places(metric) == [[0, 1]]
    agree(metric, images)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_batches_of_any_size_agree(count: int) -> None:
    ensemble = lively(Ensemble(tiny_branches())).double().eval().requires_grad_(False)
    x = torch.rand(count, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    expected = ensemble(x)
    ensemble.stack()
    features = ensemble(x)
    torch.testing.assert_close(features, expected, atol=1e-12, rtol=0)
    features.sum().backward()


def test_checkpointed_towers_agree(images: Tensor, metric: DreamSim) -> None:
    metric.double()
    for branch in metric.ensemble.branches:
        branch.backbone.set_grad_checkpointing(True)  # type: ignore[operator, union-attr]
    agree(metric, images)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")  # of torch.func.jvp
def test_transforms_and_second_derivatives_work(images: Tensor) -> None:
    metric = ensemble_of(*tiny_branches()).double()
    x, y = images.double(), images.double().flip(-1)

    def distance(x: Tensor) -> Tensor:
        return metric(x, y).sum()

    (expected,) = torch.autograd.grad(distance(leaf := x.clone().requires_grad_()), leaf)
    torch.testing.assert_close(torch.func.grad(distance)(x), expected, atol=1e-12, rtol=1e-9)
    rows = torch.func.vmap(lambda a, b: metric(a[None], b[None])[0])(x, y)
    torch.testing.assert_close(rows, metric(x, y), atol=1e-12, rtol=1e-9)
    direction = torch.randn_like(x)
    _, change = torch.func.jvp(distance, (x,), (direction,))
    torch.testing.assert_close(change, (expected * direction).sum(), atol=1e-10, rtol=1e-8)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad((gradient * direction).sum(), leaf)
    step = 1e-5 * direction
    difference = (torch.func.grad(distance)(x + step) - torch.func.grad(distance)(x - step)) / 2e-5
    torch.testing.assert_close(second, difference, atol=1e-6, rtol=1e-4)


def test_weights_are_held_once_and_are_the_same(metric: DreamSim) -> None:
    before = {name: value.clone() for name, value in metric.state_dict().items()}
    count = sum(parameter.numel() for parameter in metric.parameters())
    block = weakref.ref(metric.ensemble.branches[0].backbone.blocks[0].mlp.fc1)  # type: ignore[union-attr, index]
    for change in (metric.ensemble.stack, metric.half, metric.float, metric.ensemble.unstack):
        change()
        gc.collect()
        assert block() is None
        assert sum(parameter.numel() for parameter in metric.parameters()) == count
        assert not any(t.is_meta for t in chain(metric.parameters(), metric.buffers()))
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in metric.parameters()}
        assert sum(storages.values()) == count * metric.dtype.itemsize
    after = metric.state_dict()
    assert before.keys() == after.keys()
    for name, value in after.items():
        torch.testing.assert_close(value, before[name].half().float(), atol=0, rtol=0)


def test_saved_and_loaded_weights_have_the_names_of_the_towers(
    metric: DreamSim, images: Tensor, tmp_path: Path
) -> None:
    expected, state = metric.embed(images), {name: value.clone() for name, value in metric.state_dict().items()}
    metric.ensemble.stack()
    stacked = metric.state_dict()
    assert set(stacked) == set(state) and all(torch.equal(stacked[name], state[name]) for name in state)
    stacked[next(name for name in stacked if "blocks" in name)].zero_()  # it is a copy
    assert metric.embed(images).allclose(expected, atol=1e-6)
    metric.load_state_dict({name: value * 1.5 for name, value in state.items()})
    assert places(metric) == [[0, 1, 2]]
    assert not metric.embed(images).allclose(expected, atol=1e-3)
    metric.load_state_dict(state, assign=True)
    assert places(metric) == [[0, 1, 2]] and metric.embed(images).allclose(expected, atol=1e-6)
    missing = "ensemble.branches.1.backbone.blocks.0.mlp.fc1.weight"
    with pytest.raises(RuntimeError, match=re.escape(missing)):
        metric.load_state_dict({name: value for name, value in state.items() if name != missing})
    assert places(metric) == [[0, 1, 2]]
    metric.load_state_dict({missing: torch.zeros_like(state[missing])}, strict=False)
    metric.ensemble.unstack()
    assert not metric.state_dict()[missing].any()


def test_loading_fills_the_stacked_parameters_in_place(metric: DreamSim) -> None:
    metric.ensemble.stack()
    before = list(metric.parameters())
    state = {name: value * 1.5 for name, value in metric.state_dict().items()}
    holder = nn.ModuleDict({"loss": metric})
    holder.load_state_dict({f"loss.{name}": value for name, value in state.items()})
    assert all(now is parameter for now, parameter in zip(metric.parameters(), before, strict=True))
    after = metric.state_dict()
    assert all(torch.equal(after[name], state[name]) for name in state)
    averaged = AveragedModel(metric)
    averaged.update_parameters(metric)
    torch.testing.assert_close(averaged.module.state_dict(), after)


def test_hooks_on_a_state_dict_see_the_names_of_the_towers(metric: DreamSim) -> None:
    metric.ensemble.stack()
    holder = nn.ModuleDict({"loss": metric, "own": nn.Linear(1, 1)})

    def without_the_loss(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        assert not any("stacks" in name for name in state)
        for name in [name for name in state if name.startswith("loss.")]:
            del state[name]

    holder._register_state_dict_hook(without_the_loss)
    state = holder.state_dict()
    assert set(state) == {"own.weight", "own.bias"}
    assert not any("stacks" in name for name in metric.state_dict()._metadata)


def test_other_programs_files_hold_every_weight(metric: DreamSim, images: Tensor, tmp_path: Path) -> None:
    accelerate, safetensors = pytest.importorskip("accelerate"), pytest.importorskip("safetensors.torch")
    metric.ensemble.stack()
    expected = metric.embed(images)
    accelerate.Accelerator(cpu=True).save_model(metric, tmp_path)
    safetensors.save_model(metric, tmp_path / "saved.safetensors")
    torch.save(metric.state_dict(), tmp_path / "saved.pt")
    metric.save(tmp_path / "ours.safetensors")
    for stacked in (False, True):
        files = [tmp_path / "model.safetensors", tmp_path / "saved.safetensors", tmp_path / "saved.pt"]
        for file in files:
            other = DreamSim(Ensemble(tiny_branches()), stacked=stacked)
            if file.suffix == ".pt":
                other.load_state_dict(torch.load(file))
            else:
                safetensors.load_model(other, file)
            torch.testing.assert_close(other.embed(images), expected, atol=1e-6, rtol=0)
        ours = DreamSim(tmp_path / "ours.safetensors", stacked=stacked)
        torch.testing.assert_close(ours.embed(images), expected, atol=1e-6, rtol=0)


def test_copies_and_pickles_are_independent_and_hold_each_weight_once(metric: DreamSim, images: Tensor) -> None:
    size = len(pickle.dumps(metric))
    metric.ensemble.stack()
    expected = metric.embed(images)
    pickled = pickle.dumps(metric)
    assert len(pickled) < 1.1 * size
    for copied in (copy.deepcopy(metric), pickle.loads(pickled)):
        torch.testing.assert_close(copied.embed(images), expected, atol=0, rtol=0)
        copied.ensemble.unstack()
        torch.testing.assert_close(copied.embed(images), expected, atol=1e-6, rtol=0)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.zero_()
    torch.testing.assert_close(metric.embed(images), expected, atol=0, rtol=0)


def test_weights_changed_in_place_count(metric: DreamSim, images: Tensor) -> None:
    metric.ensemble.stack()
    before = metric.half().float().embed(images)
    for name, parameter in metric.ensemble.stacks.named_parameters():
        if name.endswith("norm1.weight"):
            parameter.data *= 1.5
    changed = metric.embed(images)
    assert (changed - before).abs().max() > 1e-3
    metric.ensemble.unstack()
    torch.testing.assert_close(metric.embed(images), changed, atol=1e-6, rtol=0)


def test_towers_taken_out_before_stay_whole_and_those_of_the_stack_say_where_their_blocks_are(images: Tensor) -> None:
    ensemble = lively(Ensemble(tiny_branches())).eval().requires_grad_(False)
    towers = list(ensemble.branches)
    expected = [tower(images) for tower in towers]
    ensemble.stack()
    for tower, features in zip(towers, expected, strict=True):
        torch.testing.assert_close(tower(images), features, atol=0, rtol=0)
    hollow: Any = ensemble.branches[0]
    for use in (
        lambda: hollow(images),
        lambda: hollow.backbone.blocks[1],
        lambda: list(hollow.backbone.blocks),
        lambda: len(hollow.backbone.blocks),
        lambda: hollow.load_state_dict(towers[0].state_dict()),
    ):
        with pytest.raises(RuntimeError, match=r"ensemble\.unstack\(\)"):
            use()
    assert "Elsewhere" in repr(ensemble) and "weight=(3, 96, 32)" in repr(ensemble)
    ensemble.branches[0] = towers[0]
    with pytest.raises(RuntimeError, match="'dino' was put in while towers run as one network"):
        ensemble(images)
    ensemble.branches[0] = hollow
    ensemble.unstack()
    assert len(ensemble.branches[0].backbone.blocks) == 2  # type: ignore[union-attr, arg-type]


def test_hooks_run_the_towers_one_by_one_or_are_refused(images: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    metric = ensemble_of(*tiny_branches())
    for module in (metric.ensemble.branches[1], metric.ensemble.branches[1].backbone):
        hook = module.register_forward_hook(lambda *_: None)  # type: ignore[union-attr, operator]
        with pytest.raises(RuntimeError, match=r"a hook on the tower of 'clip' is not called.*unstack"):
            metric.embed(images)
        hook.remove()
    metric.ensemble.unstack()
    seen: list[Tensor] = []
    mlp: Any = metric.ensemble.branches[0].backbone.blocks[1].mlp  # type: ignore[union-attr, index]
    hook = mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with caplog.at_level(logging.DEBUG):
        metric.ensemble.stack()
    assert not places(metric) and "dino + clip + open_clip: one by one, a layer of 'dino' has a hook" in caplog.text
    metric.embed(images)
    assert seen
    hook.remove()
    with caplog.at_level(logging.DEBUG):
        metric.ensemble.stack()
    assert places(metric) and "dino + clip + open_clip: as one network" in caplog.text


class _Doubled(Branch):
    def forward(self, *arguments: Any) -> Tensor:
        return 2 * super().forward(*arguments)


class _OwnNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def replace_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda *arguments: 2 * forward(*arguments)  # type: ignore[method-assign]


def own_norm(tower: Any) -> None:
    tower.backbone.blocks[1].norm2 = _OwnNorm(32)


def own_scale(tower: Any) -> None:
    tower.backbone.blocks[1].ls1 = nn.Hardtanh(0, 0.1)


@pytest.mark.parametrize(
    "change",
    [
        lambda tower: replace_forward(tower),
        lambda tower: replace_forward(tower.backbone.blocks[1].mlp),
        lambda tower: setattr(tower, "__class__", _Doubled),
        own_norm,
        own_scale,
    ],
)
def test_what_a_stack_does_not_know_runs_one_by_one(change: Any, images: Tensor) -> None:
    ensemble = lively(Ensemble(tiny_branches())).eval().requires_grad_(False)
    change(ensemble.branches[1])
    ensemble.eval().requires_grad_(False)
    expected = ensemble(images)
    ensemble.stack()
    torch.testing.assert_close(ensemble(images), expected, atol=1e-6, rtol=1e-5)


def test_stacking_again_takes_what_has_become_possible() -> None:
    dino, clip, _ = tiny_branches()
    large = replace(dino, image_size=48)
    ensemble = Ensemble([dino, clip, large, replace(large, name="large 2")]).eval().requires_grad_(False)
    hook = ensemble.branches[0].register_forward_hook(lambda *_: None)
    ensemble.stack()
    assert len(ensemble.stacks) == 1
    hook.remove()
    ensemble.stack()
    assert len(ensemble.stacks) == 2


def test_a_context_one_by_one_holds(metric: DreamSim) -> None:
    metric.ensemble.stack()
    with metric.ensemble.one_by_one():
        metric.eval().half().float()
        assert not places(metric)
    assert places(metric) and metric.ensemble.stacked


def test_towers_that_are_trained_run_one_by_one(images: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    metric = ensemble_of(*tiny_branches())
    metric.attach_adapter(rank=2)
    assert not places(metric)
    metric.set_adapter("default")  # frozen
    assert places(metric)
    metric.train()
    assert not places(metric)  # its dropout acts
    metric.eval()
    assert places(metric)
    metric.set_adapter("default", trainable=True)
    assert not places(metric)
    assert any(p.requires_grad for p in metric.parameters())
    metric.fold()
    assert places(metric)
    metric.ensemble.unstack()
    metric.requires_grad_(True)
    with caplog.at_level(logging.DEBUG):
        metric.ensemble.stack()
    assert not places(metric) and "weights of 'dino' are trained" in caplog.text


def test_a_stacked_metric_can_be_trained_too(images: Tensor) -> None:
    """Its weights are ordinary parameters, and their gradients those of the towers."""
    metric = ensemble_of(*tiny_branches()).double().requires_grad_(True)
    x = images.double()
    metric(x, x.flip(-1)).sum().backward()
    stacked = {name: p.grad for name, p in metric.ensemble.stacks.named_parameters()}
    metric.ensemble.unstack()
    metric.zero_grad()
    metric(x, x.flip(-1)).sum().backward()
    fc1: Any = [branch.backbone.blocks[0].mlp.fc1 for branch in metric.ensemble.branches]  # type: ignore[union-attr, index]
    (name,) = (name for name in stacked if name.endswith("0.mlp.fc1.weight") and "blocks.0" in name)
    rows = stacked[name]
    assert rows is not None
    qkv = [g for n, g in stacked.items() if n.endswith("attn.qkv.bias") and g is not None]
    assert qkv and all(not g[:, 32:64].any() and g[:, :32].any() for g in qkv[:-1])  # as of towers one by one
    for row in rows:
        assert any(torch.allclose(row, layer.weight.grad, atol=1e-12) for layer in fc1)


def test_stacking_is_the_users_choice_and_automatic_on_accelerators_only(metric: DreamSim) -> None:
    metric.eval().double()
    assert not places(metric) and metric.ensemble.stacked is None
    ensemble = Ensemble(tiny_branches())
    ensemble.stacked = True
    assert places(DreamSim(ensemble))  # the ensemble's own choice is kept
    assert not places(DreamSim(ensemble, stacked=False))
    assert not places(DreamSim(ensemble))
    assert not places(DreamSim(Ensemble(tiny_branches()), stacked=False).eval())
    assert not places(DreamSim(Ensemble(tiny_branches()), device="meta"))


def test_a_metric_stacked_in_inference_mode_gives_gradients_outside(images: Tensor) -> None:
    metric = DreamSim(lively(Ensemble(tiny_branches())), fold=False)
    metric.attach_adapter(rank=2)
    metric.set_adapter("default")
    with torch.inference_mode():
        metric.ensemble.stack()
        metric.embed(images, adapters=["default", None, "default"])
    x = images.clone().requires_grad_()
    metric(x, images.flip(-1), adapters=["default", None, "default"]).sum().backward()
    with torch.inference_mode():
        metric.ensemble.unstack()
    metric(x, images.flip(-1)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("before", [True, False])
def test_memory_can_be_shared_between_processes(before: bool, metric: DreamSim) -> None:
    metric.ensemble.stacked = True  # from the next change on
    if before:
        metric.ensemble.stack()
    metric.share_memory()
    assert places(metric) and all(parameter.is_shared() for parameter in metric.parameters())


def test_threads_share_a_stacked_metric(images: Tensor) -> None:
    metric = ensemble_of(*tiny_branches()).double()
    x = images.double()
    expected = metric.embed(x)
    outcomes: list[Tensor] = []
    threads = [threading.Thread(target=lambda: outcomes.append(metric.embed(x))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    for outcome in outcomes:
        torch.testing.assert_close(outcome, expected, atol=1e-12, rtol=0)
