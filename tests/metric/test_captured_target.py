"""A captured target gives what the target itself gives, whatever is done to it, and says when it runs without a graph.

The graphs are tapes on the CPU (see `tape_recorder`); what only a card can show is in `test_captured_on_gpu`.
"""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tape_recorder import TapeRecorder
from torch import Tensor, nn

from dreamsim_guidance import DreamSim, Target
from dreamsim_guidance.capture.recorder import _without_collection


@pytest.fixture
def recorder() -> TapeRecorder:
    return TapeRecorder()


@pytest.fixture
def reference() -> Tensor:
    return torch.rand(1, 3, 40, 44)


def pictures(count: int = 2, size: int = 36, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, size, size, dtype=dtype)


def value_and_gradient(target: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    leaf = images.detach().clone().requires_grad_()
    values = target(leaf)
    weights = torch.arange(1.0, len(values) + 1, dtype=values.dtype)
    (gradient,) = torch.autograd.grad((values * weights).sum(), leaf)
    return values.detach(), gradient


def assert_same(captured: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], images: Tensor) -> None:
    for ours, theirs in zip(value_and_gradient(captured, images), value_and_gradient(plain, images), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


OPTIONS: dict[str, dict[str, Any]] = {
    "one reference": {},
    "mean": {"reduction": "mean"},
    "min": {"reduction": "min"},
    "weighted": {"reduction": "mean", "weights": (3.0, 1.0)},
    "one each": {},
    "mask": {"mask": True},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["metric", "patch_metric"])
def test_values_and_gradients_are_those_of_the_target(
    option: str, kind: str, recorder: TapeRecorder, request: pytest.FixtureRequest
) -> None:
    metric: DreamSim = request.getfixturevalue(kind)
    options = dict(OPTIONS[option])
    references = pictures(1 if option in ("one reference", "mask") else 2, 30)
    if options.get("mask"):
        options["mask"] = torch.rand(1, 1, 20, 20)
    plain, captured = metric.target(references, **options), metric.target(references, **options, capture=recorder)
    for _ in range(3):
        assert_same(captured, plain, pictures())
        images = pictures()
        with torch.no_grad():
            assert torch.equal(captured(images), plain(images))
    assert recorder.recorded == 2  # with a gradient and without
    assert recorder.replayed == 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_images_of_every_precision_get_a_gradient_of_theirs(
    dtype: torch.dtype, metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    plain, captured = metric.target(reference), metric.target(reference, capture=recorder)
    images = pictures(dtype=dtype)
    (a, slope), (b, expected) = value_and_gradient(captured, images), value_and_gradient(plain, images)
    assert slope.dtype == dtype and recorder.recorded == 1
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slope.float(), expected.float(), rtol=1e-2, atol=1e-5)


def test_gradients_of_half_images_neither_vanish_nor_overflow_under_a_weight(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target = metric.target(reference, capture=recorder)
    leaf = pictures(dtype=torch.float16).requires_grad_()
    half = (0.9 * leaf + 0.1 * reference.mean().half()).detach().requires_grad_()
    (slope,) = torch.autograd.grad((1e5 * target(half)).sum(), half)
    (expected,) = torch.autograd.grad(
        (1e5 * target(half.float().detach().requires_grad_())).sum(), half, allow_unused=True
    )
    assert expected is None and slope.isfinite().all()
    full = half.detach().float().requires_grad_()
    (exact,) = torch.autograd.grad((1e5 * metric.target(reference)(full)).sum(), full)
    torch.testing.assert_close(slope.float(), exact, rtol=1e-2, atol=1e-3 * float(exact.abs().max()))


def test_a_half_precision_metric_is_recorded_with_its_loss_scale(reference: Tensor, recorder: TapeRecorder) -> None:
    metric = DreamSim("pocket", dtype=torch.float16)
    plain, captured = metric.target(reference), metric.target(reference, capture=recorder)
    images = pictures(1, 48)
    assert_same(captured, plain, images)
    assert_same(captured, plain, pictures(1, 48))
    assert recorder.recorded == 1


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(-1, -2),
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: torch.cat([x, x], -1)[..., ::2],
    ],
)
def test_the_layout_of_images_does_not_matter(
    layout: Callable[[Tensor], Tensor], metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    plain, captured = metric.target(reference), metric.target(reference, capture=recorder)
    captured(pictures().requires_grad_())
    images = layout(pictures()).detach()
    leaf, other = images.requires_grad_(), images.detach().clone().requires_grad_()
    torch.testing.assert_close(captured(leaf), plain(other), rtol=1e-4, atol=1e-7)
    (a,), (b,) = torch.autograd.grad(captured(leaf).sum(), leaf), torch.autograd.grad(plain(other).sum(), other)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    assert recorder.recorded == 1


def test_nothing_aliases_the_callers_tensors(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    mask = torch.ones(1, 1, 40, 44)
    target = metric.target(reference, mask, capture=recorder)
    images = pictures()
    values, slope = value_and_gradient(target, images)
    copies = values.clone(), slope.clone(), images.clone()
    for x in (reference, mask):
        x.zero_()
    value_and_gradient(target, pictures())
    assert torch.equal(values, copies[0]) and torch.equal(slope, copies[1]) and torch.equal(images, copies[2])
    values.zero_()
    slope.zero_()
    again = value_and_gradient(target, images)
    assert torch.equal(again[0], copies[0]) and torch.equal(again[1], copies[1])
    assert recorder.recorded == 1


def test_several_calls_may_come_before_their_backward_passes(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    plain, captured = metric.target(reference), metric.target(reference, capture=recorder)
    leaves = [pictures().requires_grad_() for _ in range(3)]
    values = [captured(leaf) for leaf in leaves]
    for leaf, value in reversed(list(zip(leaves, values, strict=True))):
        (slope,) = torch.autograd.grad((value * torch.tensor([1.0, 2.0])).sum(), leaf)
        torch.testing.assert_close(slope, value_and_gradient(plain, leaf)[1], rtol=1e-4, atol=1e-7)


def test_the_gradient_flows_on_through_the_callers_network(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())
    images = pictures()
    slopes = []
    for target in (metric.target(reference), metric.target(reference, capture=recorder)):
        network.zero_grad()
        (0.3 * target(network(images)) + 0.1 * target(network(images.flip(-1)))).mean().backward()
        slopes.append([parameter.grad.clone() for parameter in network.parameters()])
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-4, atol=1e-7)
    assert recorder.recorded == 1


def test_second_derivatives_are_those_of_the_target(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    metric.double()
    results = []
    for target in (metric.target(reference.double()), metric.target(reference.double(), capture=recorder)):
        leaf = torch.rand(
            2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        ).requires_grad_()
        (slope,) = torch.autograd.grad(target(leaf).sum(), leaf, create_graph=True)
        slope.square().sum().backward()
        results.append((slope.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0])
    assert results[1][1].abs().max() > 0 and recorder.recorded == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")  # torch's own, in forward mode
def test_transforms_run_the_target_itself(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    plain, captured = metric.target(reference), metric.target(reference, capture=recorder)
    images = pictures()
    tangent = torch.randn_like(images)

    def results(target: Target) -> list[Tensor]:
        batched = torch.func.vmap(lambda x: target(x[None])[0])(images)
        slope = torch.func.grad(lambda x: target(x).sum())(images)
        (_, change) = torch.func.jvp(target, (images,), (tangent,))
        return [batched, slope, change]

    for ours, theirs in zip(results(captured), results(plain), strict=True):
        assert torch.equal(ours, theirs)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(images, tangent)
        change = torch.autograd.forward_ad.unpack_dual(captured(dual)).tangent
    torch.testing.assert_close(change, results(plain)[2])
    assert recorder.recorded == 0


def test_a_compiled_target_is_compiled_without_its_graph(
    unchecked: None, metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    captured = metric.target(reference, capture=recorder)
    compiled = torch.compile(captured, backend="eager", fullgraph=True)
    images = pictures()
    torch.testing.assert_close(compiled(images), metric.target(reference)(images))
    assert recorder.recorded == 0


def test_inference_mode_and_ordinary_calls_share_a_recording(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    with torch.inference_mode():
        first = target(images.clone())
    with torch.no_grad():
        assert torch.equal(target(images), first)
    assert recorder.recorded == 1 and not target(images).requires_grad
    assert_same(target, metric.target(reference), images)


# Shapes.


def test_eight_kinds_of_images_are_kept_the_least_recently_used_is_dropped(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target = metric.target(reference, capture=recorder)

    def call(size: int) -> int:
        with torch.no_grad():
            target(pictures(1, size))
        return recorder.recorded

    assert [call(32 + i) for i in range(8)] == list(range(1, 9))
    assert call(32) == 8  # now 33 is the oldest
    assert call(50) == 9 and call(32) == 9 and call(34) == 9
    assert call(33) == 10


def test_warming_up_records_every_shape_ahead(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    target = metric.target(reference, capture=recorder)
    target.warm_up([(1, 32, 40), (2, 36, 36)])
    assert recorder.recorded == 4
    assert_same(target, metric.target(reference), pictures(2, 36))
    with torch.no_grad():
        target(torch.rand(1, 3, 32, 40))
    assert recorder.recorded == 4
    metric.target(reference).warm_up([(1, 32, 40)])  # without capture, just calls


def test_a_dropped_target_frees_its_graphs_without_a_collection(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target = metric.target(reference, capture=recorder)
    for _ in range(2):
        value_and_gradient(target, pictures())
    assert target._graphs is not None
    (record,) = target._graphs._records.values()
    memory, enabled = weakref.ref(record), gc.isenabled()
    del record
    gc.disable()
    try:
        del target
        assert memory() is None
    finally:
        if enabled:
            gc.enable()


def test_nothing_is_collected_during_a_recording() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    with _without_collection():
        dropped = weakref.ref(Cycle())
        lists = [[i] for i in range(10_000)]  # enough new objects for a collection
        assert dropped() is not None and not gc.isenabled()
    assert gc.isenabled()
    del lists
    gc.collect()
    assert dropped() is None


def test_released_graphs_are_recorded_anew(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    target(images)
    target.release()
    assert_same(target, metric.target(reference), images)
    assert recorder.recorded == 2
    metric.target(reference).release()  # nothing to do


# References.


@pytest.mark.parametrize("captured", [True, False])
def test_references_are_swapped_without_a_new_recording(
    captured: bool, metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target = metric.target(reference, capture=recorder if captured else False)
    images = pictures()
    target(images.clone().requires_grad_())
    for size in (40, 33, 64):  # in pixels
        other = pictures(1, size)
        copies = other.clone()
        target.swap(other)
        other.zero_()
        assert_same(target, metric.target(copies), images)
        assert torch.equal(target.references, copies)
    assert recorder.recorded == (1 if captured else 0)


def test_masks_are_swapped_with_the_references(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    masks = [torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)]
    masks[0][..., :8] = masks[1][..., 8:] = 1
    before = [mask.clone() for mask in masks]
    target, images = metric.target(reference, masks[0], capture=recorder), pictures()
    assert_same(target, metric.target(reference, masks[0]), images)
    target.swap(reference, masks[1])
    assert_same(target, metric.target(reference, masks[1]), images)
    assert all(map(torch.equal, masks, before)) and recorder.recorded == 1


def test_references_of_another_shape_are_refused_with_the_cure(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    before = value_and_gradient(target, images)
    refusals = [
        (lambda: target.swap(pictures(2)), r"swapped references must have the shape of those before, \(1, \d+\), got"),
        (
            lambda: target.swap(reference, torch.ones(1, 1, 4, 4)),
            r"swapped mask .* None, got \(1, 1, 4, 4\); for others",
        ),
        (lambda: target.swap(reference * 255), r"the reference must lie in \[0, 1\]"),
    ]
    for call, message in refusals:
        with pytest.raises(ValueError, match=message):
            call()
    assert all(map(torch.equal, value_and_gradient(target, images), before))


def test_swapping_makes_a_target_current_after_a_change_of_adapters(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    target(images)
    metric.attach_adapter(rank=2)
    metric.requires_grad_(False)
    for parameter in metric.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    with pytest.raises(ValueError, match="embedded before"):
        target(images)
    target.swap(reference)
    assert_same(target, metric.target(reference), images)


# Where it is refused, and where it falls back.


def test_capture_is_refused_on_a_cpu(metric: DreamSim, reference: Tensor) -> None:
    with pytest.raises(ValueError, match=r"capture=True records CUDA graphs, and the metric is on cpu; move it first"):
        metric.target(reference, capture=True)


def test_capture_is_refused_after_the_metric_has_left_its_device(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target = metric.target(reference, capture=recorder)
    target(pictures())
    target.to("meta")  # the tape records on the CPU only
    with pytest.raises(ValueError, match="the metric is on meta; move it first"):
        target(pictures().to("meta"))
    target = metric.target(reference, capture=recorder)
    metric.to("meta")
    with pytest.raises(ValueError, match="must be on one device"):
        target(pictures().to("meta"))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "dreamsim_guidance")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_failed_recording_is_logged_once_and_the_target_itself_runs(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder, lines: Callable[[], list[str]]
) -> None:
    recorder.fail = RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")
    target = metric.target(reference, capture=recorder)
    for _ in range(3):
        assert_same(target, metric.target(reference), pictures())
    assert lines() == [
        "not run as a CUDA graph: RuntimeError: CUDA error: operation not permitted when stream is capturing."
    ]
    recorder.fail = None
    target.release()
    assert_same(target, metric.target(reference), pictures())
    assert recorder.recorded == 1


def test_a_replay_that_differs_from_the_target_is_not_used(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder, lines: Callable[[], list[str]]
) -> None:
    recorder.spoil = 0.1
    target = metric.target(reference, capture=recorder)
    for _ in range(2):
        assert_same(target, metric.target(reference), pictures())
    assert recorder.recorded == 1 and len(lines()) == 1 and "its replay differs from the function itself" in lines()[0]


def test_towers_that_read_values_back_are_not_recorded(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder, lines: Callable[[], list[str]]
) -> None:
    class Reading(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.detach().abs().max()) > 0 else x + 1

    backbone: Any = metric.ensemble.branches[1].backbone
    backbone.norm = nn.Sequential(backbone.norm, Reading())
    target = metric.target(reference, capture=recorder)
    for _ in range(2):
        assert_same(target, metric.target(reference), pictures())
    assert recorder.recorded == 0 and len(lines()) == 1 and "reads values back to the host" in lines()[0]


HOOKS: dict[str, Callable[[nn.Module, list[int]], Any]] = {
    "forward": lambda module, seen: module.register_forward_hook(lambda *_: seen.append(1)),
    "forward pre": lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append(1)),
    "backward": lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append(1)),
    "of all modules": lambda module, seen: nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1)),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_are_called_and_what_has_hooks_runs_without_a_graph(
    kind: str,
    before: bool,
    metric: DreamSim,
    reference: Tensor,
    recorder: TapeRecorder,
    lines: Callable[[], list[str]],
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    if not before:
        value_and_gradient(target, images)
    seen: list[int] = []
    handle = HOOKS[kind](metric.ensemble.branches[1].backbone.norm, seen)
    try:
        assert_same(target, metric.target(reference), images)
        count = len(seen)
        assert_same(target, metric.target(reference), images)
        assert len(seen) > count > 0
        assert recorder.recorded == (0 if before else 1)
        assert len(lines()) == 1 and "a module has hooks" in lines()[0]
    finally:
        handle.remove()
    assert_same(target, metric.target(reference), images)
    assert recorder.recorded == 1 and len(lines()) == 1


def test_a_forward_that_was_replaced_on_a_module_is_used(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    value_and_gradient(target, images)
    head: Any = metric.ensemble.branches[1].backbone.norm
    plain = head.forward
    head.forward = lambda x: plain(x) + 1  # as offloading does
    other = metric.target(reference)
    other.directions.copy_(target.directions)
    assert_same(target, other, images)
    del head.forward
    recorded = recorder.recorded
    value_and_gradient(target, images)
    assert recorder.recorded == recorded


def test_parameters_in_training_get_their_gradients(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder, lines: Callable[[], list[str]]
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    value_and_gradient(target, images)
    weight = metric.ensemble.branches[0].backbone.blocks[0].mlp.fc1.weight
    weight.requires_grad_()
    target(images.clone().requires_grad_()).sum().backward()
    assert weight.grad is not None and weight.grad.abs().max() > 0
    assert len(lines()) == 1 and "parameters require a gradient" in lines()[0]
    with torch.no_grad():
        target(images)
    assert recorder.recorded == 2


# What may happen to the metric.


def swap_data(metric: DreamSim) -> None:
    for parameter in metric.parameters():
        parameter.data = parameter.data * 1.1


def replace_parameter(metric: DreamSim) -> None:
    layer: Any = metric.ensemble.branches[0].backbone.blocks[1].mlp.fc1
    layer.weight = nn.Parameter(layer.weight.detach() * 1.5, requires_grad=False)


def replace_module(metric: DreamSim) -> None:
    block: Any = metric.ensemble.branches[0].backbone.blocks[1]
    block.mlp = copy.deepcopy(block.mlp)
    block.mlp.fc1.weight.mul_(1.5)


def replace_branch(metric: DreamSim) -> None:
    metric.ensemble.branches[1] = copy.deepcopy(metric.ensemble.branches[2])


def remove_bias(metric: DreamSim) -> None:
    layer: Any = metric.ensemble.branches[2].backbone.blocks[0].attn.proj
    layer.bias = None


CHANGES: dict[str, Callable[[DreamSim], object]] = {
    "data": swap_data,
    "parameter": replace_parameter,
    "module": replace_module,
    "branch": replace_branch,
    "no bias": remove_bias,
    "assign": lambda metric: metric.load_state_dict(
        {name: value * 1.2 for name, value in metric.state_dict().items()}, assign=True
    ),
    "resize": lambda metric: setattr(metric, "normalize_embeds", False),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_replaced_weights_are_recorded_anew(
    change: str, metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures(size=32)
    target(images)
    CHANGES[change](metric)
    metric.requires_grad_(False)
    gc.collect()
    plain = metric.target(reference)
    plain.directions = target.directions
    torch.testing.assert_close(target(images), plain(images), rtol=1e-4, atol=1e-7)
    target(images)
    assert recorder.recorded == 2


def test_towers_that_run_as_one_are_recorded_and_every_change_of_them_is_noticed(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    before = value_and_gradient(target, images)
    for count, change in enumerate((metric.ensemble.stack, lambda: metric.ensemble.unstack()), start=2):
        change()
        for now, expected in zip(value_and_gradient(target, images), before, strict=True):
            torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-6)
        assert recorder.recorded == count


@torch.no_grad()
def test_weights_that_change_in_place_serve_without_a_new_recording(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    before = target(images)
    metric.load_state_dict({name: value * 1.2 for name, value in metric.state_dict().items()})
    plain = metric.target(reference)
    plain.directions = target.directions
    torch.testing.assert_close(target(images), plain(images), rtol=1e-4, atol=1e-7)
    assert recorder.recorded == 1 and not torch.equal(target(images), before)


def test_what_a_graph_reads_outlives_whatever_made_it(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dreamsim_guidance import preprocess

    target, images = metric.target(reference, capture=recorder), pictures()
    value_and_gradient(target, images)
    (record,) = target._graphs._records.values()
    addresses = {storage.data_ptr() for storage in record.memory}
    weights = {parameter.data_ptr() for parameter in metric.ensemble.branches[0].backbone.blocks[0].parameters()}
    table = preprocess._cached_weights(36, 32, torch.float32, torch.device("cpu"))
    assert weights <= addresses and table.data_ptr() in addresses and target.directions.data_ptr() in addresses


@pytest.mark.parametrize("who", ["the metric", "the target"])
def test_a_conversion_is_recorded_anew(who: str, metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    target = metric.target(reference, capture=recorder)
    target(pictures())
    (metric if who == "the metric" else target).double()
    target.double()
    images = pictures(dtype=torch.float64)
    plain = target.metric.target(reference.double())
    plain.directions = target.directions
    assert_same(target, plain, images)
    assert recorder.recorded == 2


def test_the_mode_of_the_metric_is_noticed(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    target(images)
    metric.ensemble.branches[0].train()
    target(images)
    assert recorder.recorded == 2


def test_autocast_has_recordings_of_its_own(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    plain, captured = metric.target(reference), metric.target(reference, capture=recorder)
    for _ in range(2):
        images = pictures()
        assert_same(captured, plain, images)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                values, slope = value_and_gradient(captured, images)
            with torch.autocast("cpu", dtype=dtype):  # a block of its own, with casts of its own
                expected = value_and_gradient(plain, images)
            torch.testing.assert_close((values, slope), expected, rtol=1e-2, atol=1e-5)
    assert recorder.recorded == 3


@pytest.mark.parametrize("how", [copy.deepcopy, lambda target: pickle.loads(pickle.dumps(target))])
def test_copies_record_anew(
    how: Callable[[Target], Target], metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    target, images = metric.target(reference, capture=recorder), pictures()
    before = value_and_gradient(target, images)
    twin = how(target)
    assert twin._graphs is not target._graphs and len(twin._graphs) == 0
    assert all(map(torch.equal, value_and_gradient(twin, images), before))
    assert len(twin._graphs) == 1 and recorder.recorded + twin._graphs.recorder.recorded >= 2
    swap_data(twin.metric)
    assert all(map(torch.equal, value_and_gradient(target, images), before))


def test_threads_take_turns(metric: DreamSim, reference: Tensor, recorder: TapeRecorder) -> None:
    targets = [metric.target(reference, capture=recorder), metric.target(1 - reference, capture=recorder)]
    plain = [metric.target(reference), metric.target(1 - reference)]
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            generator = torch.Generator().manual_seed(number)
            for _ in range(4):
                images = torch.rand(2, 3, 32, 32, generator=generator)
                assert_same(targets[number % 2], plain[number % 2], images)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and recorder.most_inside == 1 and recorder.recorded == 2


def test_a_target_inside_another_recording_is_recorded_with_it(
    metric: DreamSim, reference: Tensor, recorder: TapeRecorder
) -> None:
    from dreamsim_guidance.capture import Graphs, Watch

    target, images = metric.target(reference, capture=recorder), pictures()
    outer = Graphs(recorder)
    with torch.no_grad():
        expected = metric.target(reference)(images)
        for _ in range(2):
            (values,) = outer(lambda x: (target(x),), (images,), lambda: Watch([metric]))
            assert torch.equal(values, expected)
    assert recorder.recorded == 1
