"""Machines: a host that launches operations and a device that computes them; predictions beside what a GPU measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planned import brightness, call_of, priced, way
from tiny_pipeline import TinyPipeline
from torch import nn
from torch.utils.checkpoint import checkpoint

from dreamsim_guidance.guidance import DPS, MPGD, Machine, Method, plan
from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.guidance.planning.demand import demand_of
from dreamsim_guidance.guidance.planning.machine import NO_TIME, Duration
from dreamsim_guidance.guidance.planning.prices import Prices
from dreamsim_guidance.losses import L1

ROOT = Path(__file__).parents[3]
GPU = Machine(1e12, latency=1.0, kernel=0.25, asynchronous=True)
"""A device that waits for its host: an operation takes a second to launch, and a quarter of it to compute."""


@pytest.mark.parametrize("cut", [0, 1, 4, 7])
def test_durations_add_up_to_those_of_two_clocks(cut: int) -> None:
    works = [3.0, 0.1, 0.1, 0.1, 0.1, 0.1, 5.0, 0.2]
    host = device = 0.0
    for work in works:
        host += 1.0
        device = max(device, host) + work
    parts = [Duration(1.0, work, 1.0 + work) for work in works]
    first, second = NO_TIME, NO_TIME
    for part in parts[:cut]:
        first = first.then(part)
    for part in parts[cut:]:
        second = second.then(part)
    whole = first.then(second)
    assert (whole.launching, whole.computing, whole.total) == pytest.approx((8.0, sum(works), device))
    assert Duration(1.0, 0.5, 1.5).times(3).total == pytest.approx(3.5)
    assert Duration(0.5, 1.0, 1.5).times(3).total == pytest.approx(3.5)
    assert Duration(0.5, 1.0, 1.5).times(0) == NO_TIME


def test_operations_are_counted_by_how_they_are_launched() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).requires_grad_(False)
    x = torch.zeros(2, 4, requires_grad=True)
    counts = []
    for checkpointing in (False, True):
        with Meter() as meter:
            y = checkpoint(layers, x, use_reentrant=False) if checkpointing else layers(x)
            torch.autograd.grad(y, x, torch.ones_like(y))
        counts.append(meter.operations)
    # ones_like is an operation too; views are none
    assert counts[0] == {"forward": 4, "backward": 3, "recomputed": 0, "fused": 0}
    assert counts[1]["forward"] == 4 and counts[1]["backward"] == 3 and 2 <= counts[1]["recomputed"] <= 3


def test_an_operation_costs_the_latency_of_how_it_is_launched(sd: TinyPipeline) -> None:
    slow = priced(sd, machine=Machine(1e12, latency=1.0))
    forward, backward = slow.denoise(True, False)
    assert forward.seconds > 100 and backward.seconds > 100
    free = priced(sd, machine=Machine(1e12, latency=1.0, backward_latency=0.0))
    assert free.denoise(True, False)[0].seconds == pytest.approx(forward.seconds)
    assert free.denoise(True, False)[1].seconds < 2  # the gradient that it starts from
    recomputing = priced(sd, machine=Machine(1e12, recomputed_latency=1.0))
    assert recomputing.denoise(True, False)[1].seconds < 1
    assert recomputing.denoise(True, True)[1].seconds > 100


def test_a_captured_gradient_is_launched_once(sd: TinyPipeline, prices: Prices) -> None:
    counted = priced(sd, machine=GPU)
    gradient, step = counted.gradient(None, False).time, counted.denoise(False, False)[0].time
    assert gradient.launching > 100 and gradient.computing == pytest.approx(0.25 * gradient.launching)
    own = demand_of(MPGD(), 0.5).operations
    expected = (step.launching + gradient.launching + own) / step.launching
    assert counted.slowdown(way(MPGD())) == pytest.approx(expected, rel=0.01)
    captured = (step.launching + 1 + gradient.computing + own) / step.launching
    # the host launches the method's own operations while the graph is computed
    assert (
        captured - gradient.computing / step.launching < counted.slowdown(way(MPGD(), capture=True)) < captured + 0.01
    )
    assert prices.slowdown(way(MPGD(), capture=True)) == prices.slowdown(way(MPGD()))  # a CPU has no graphs


def test_plan_reports_what_a_capture_saves_and_what_it_holds(sd: TinyPipeline) -> None:
    one_by_one, captured = (
        plan(sd.pipe, brightness, MPGD(), capture=capture, machine=GPU, progress=False, **call_of(sd)).asked
        for capture in (False, True)
    )
    assert captured.slowdown < one_by_one.slowdown
    assert captured.peak_bytes > one_by_one.peak_bytes  # the graph's memory is kept while the denoiser runs


@pytest.mark.parametrize("loss", ["declared", "a function"])
def test_auto_captures_in_a_plan_where_guide_would(sd: TinyPipeline, loss: str) -> None:
    chosen = L1(torch.zeros(1, 3, 32, 32)) if loss == "declared" else brightness
    plans = {
        capture: plan(sd.pipe, chosen, MPGD(), capture=capture, machine=GPU, progress=False, **call_of(sd)).asked
        for capture in (True, False, "auto")
    }
    assert plans["auto"] == plans[loss == "declared"] and plans[True] != plans[False]
    on_a_cpu = plan(sd.pipe, chosen, MPGD(), machine=Machine(1e12), progress=False, **call_of(sd)).asked
    assert on_a_cpu.peak_bytes == plans[False].peak_bytes


@pytest.mark.parametrize("method", [MPGD(), DPS()])
def test_the_operations_of_a_method_itself_are_counted(method: Method) -> None:
    assert 5 < demand_of(method, 0.5).operations < 200


def test_a_measured_machine_has_finite_rates_and_each_operation_costs_its_latency(sd: TinyPipeline) -> None:
    machine = Machine.measured()
    assert machine.flops_per_second > 1e8 and machine.bytes_per_second > 1e7 and 0 < machine.latency < 1e-2
    assert machine.convolution_flops_per_second is not None and machine.convolution_flops_per_second > 1e8
    assert machine.backward_latency is not None and 0 <= machine.backward_latency < 1e-2
    assert machine.recomputed_latency is not None and machine.latency <= machine.recomputed_latency < 1e-1
    assert machine.seconds(0.0, 0.0) == machine.latency
    assert not machine.asynchronous
    slow_launches = priced(sd, machine=Machine(1e12, latency=1.0))
    assert slow_launches.denoise(False, False)[0].seconds > 100  # one second for each operation


@pytest.mark.slow
def test_predictions_agree_with_the_guided_runs_that_a_gpu_recorded(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "plan_accuracy.py"), "--to", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    rows = json.loads((tmp_path / "plan_accuracy.json").read_text())["rows"]
    assert len(rows) == 16
    for row in rows:
        assert abs(row["error"]) < 0.25 and abs(row["peak_error"]) < 0.15, row
    by_arithmetic = [row["predicted_by_arithmetic"] / row["ratio"] - 1 for row in rows]
    assert sum(abs(error) > 0.25 for error in by_arithmetic) > 5  # which counts no launches
