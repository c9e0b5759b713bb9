"""Fused kernels in a plan: counted as they would be launched, on a machine that runs them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from planned import priced
from tiny_pipeline import TinyPipeline
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamsim_guidance import DreamSim
from dreamsim_guidance.guidance import Machine
from dreamsim_guidance.guidance.planning import measuring
from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.guidance.planning.machine import ARITHMETIC, Duration
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric import kernels
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import VARIANTS

HOST = Machine(1e12, latency=1.0, asynchronous=True)
FUSING = replace(HOST, fused_latency=3.0)


def narrow_loss(dtype: torch.dtype) -> Loss:
    narrow: dict[str, Any] = {"embed_dim": 32, "num_heads": 2}
    branches = [replace(b, overrides={**b.overrides, **narrow}) for b in VARIANTS["ensemble"].branches]
    return DreamSim(Ensemble(branches), dtype=dtype, stacked=True).target(torch.rand(1, 3, 224, 224))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused kernels that ordinary tensors on the CPU launch, where nothing is computed."""
    names: list[str] = []
    monkeypatch.setattr(kernels, "usable", lambda *tensors: True)
    monkeypatch.setattr(kernels, "_launch", lambda kernel, *arguments, **options: names.append(kernel.__name__))
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_counts_the_operations_that_fused_towers_launch(
    sd: TinyPipeline, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    loss = narrow_loss(dtype)
    fused = priced(sd, loss, FUSING).loss(None).time
    plain = priced(sd, loss, HOST).loss(None).time
    prices = priced(sd, loss, ARITHMETIC)
    with prices.rehearsal.mode, torch.no_grad():
        shape, kind = (images := prices.decoder(None)(prices.rehearsal.x0)).shape, images.dtype
    launched: list[str] = request.getfixturevalue("launched")  # from here on
    pictures = torch.rand(shape, dtype=kind)
    views = Views(loss)
    views.images_per_reference = 1
    views.gradient(pictures, 0)  # makes the tables for resizing
    launched.clear()
    with Meter() as meter:
        views.gradient(pictures, 0)
    assert len(launched) > 60
    # on the CPU the range of the images is read
    assert fused.launches == len(launched) + sum(meter.operations.values()) - 1
    # each fused launch takes three seconds, others take one
    assert fused.launching == pytest.approx(fused.launches + 2 * len(launched))
    assert plain.launching == plain.launches > 1.5 * fused.launches


def test_fake_tensors_take_the_fused_path_only_where_launches_are_reported() -> None:
    reported: list[tuple[int, float]] = []

    def listen(tensors: Any, flops: float) -> None:
        reported.append((len(tensors), flops))

    def run(dtype: torch.dtype) -> Tensor:
        z = torch.zeros(2, 1, 8, 3 * 32, dtype=dtype)
        return kernels.attend(kernels.activate(z, (False, True)), 2)

    with FakeTensorMode():
        run(torch.bfloat16)
        assert not reported
        with kernels.on_shapes(listen):
            assert run(torch.bfloat16).shape == (2, 1, 8, 32)
            assert reported == [(2, 0.0), (3, 2 * 2 * 2 * 8**2 * 32)]
            run(torch.float64)  # which no kernel takes
        run(torch.bfloat16)
    with kernels.on_shapes(listen):
        run(torch.float32)  # with numbers, on the CPU
    assert len(reported) == 2


def test_an_allocation_is_memory_and_no_launch() -> None:
    x = torch.zeros(4, 4)
    with Meter(HOST) as meter:
        kept = [torch.empty(8), torch.empty_like(x), x.new_empty(3), torch.empty_strided((2, 2), (2, 1))]
    assert meter.time.launches == 0 and meter.live == sum(4 * t.numel() for t in kept)
    with Meter(HOST) as meter:
        x.new_zeros(3)
    assert meter.time.launches == 1


def test_the_latency_of_fused_kernels_is_measured_where_they_run(launched: list[str]) -> None:
    seconds = measuring._latencies("cpu", torch.float32)
    assert len(launched) % measuring._FUSED == 0 and len(launched) > 5 * measuring._FUSED
    assert seconds[3] is not None and 0 < seconds[3] < 1e-2


def test_without_fused_kernels_none_are_counted() -> None:
    assert measuring._latencies("cpu", torch.float32)[3] is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_rate_of_convolutions_explains_the_measured_time(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(1e15, bytes_per_second=1e10, latency=1e-9, asynchronous=asynchronous)
    works = []

    def measured(work: Any, times: int) -> float:
        works.append(work)
        return 2.0

    monkeypatch.setattr(measuring, "_fastest", measured)
    rate = measuring._convolutions(machine, "cpu", torch.float32)
    with Meter(replace(machine, convolution_flops_per_second=rate)) as meter:
        works[0]()
    assert meter.time.total == pytest.approx(2.0, rel=1e-3)
    monkeypatch.setattr(measuring, "_fastest", lambda work, times: 1e-9)  # less than its other operations take
    assert measuring._convolutions(machine, "cpu", torch.float32) == pytest.approx(1e15)


def test_the_decoders_backward_pass_begins_after_the_loss(sd: TinyPipeline) -> None:
    def slow_to_launch(images: Tensor) -> Tensor:
        for _ in range(2000):
            images = images + 1
        return images.flatten(1).sum(1)

    # the decoder's convolutions take as long as the launching of a hundred operations each
    machine = Machine(1e30, latency=1.0, convolution_flops_per_second=1e4, asynchronous=True)
    counted = priced(sd, slow_to_launch, machine)
    gradient, loss = counted.gradient(None, False).time, counted.loss(None).time
    decoder = gradient.computing - loss.computing
    # forward or backward convolutions of the decoder, whichever take less, cannot be hidden behind the loss
    assert loss.launching > 2000 and decoder > 100
    assert gradient.total > loss.launching + 0.3 * decoder


def test_a_captured_graph_is_one_launch() -> None:
    assert HOST.captured(Duration(5.0, 2.0, 6.0, 5)).launches == 1
