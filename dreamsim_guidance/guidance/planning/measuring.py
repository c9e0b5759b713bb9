"""Measuring what operations cost on the machine at hand.

Rates are those of a matrix product, a convolution and a copy. The latency of an operation is that of a denoiser of diffusers
which is so small that only the number of its operations counts, since the Python code around an operation takes more time than
the launch itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.guidance.planning.machine import Machine, Phase

__all__ = ["measure"]


def measure(device: str | torch.device, dtype: torch.dtype) -> Machine:
    """Measure the device and its host in a few seconds; `Machine.measured` says how."""
    cuda = torch.device(device).type == "cuda"
    side, length, resolution = (4096, 2**28, 512) if cuda else (768, 2**24, 64)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    original = torch.zeros(length, device=device, dtype=dtype)
    copy = torch.zeros_like(original)
    layer = nn.Conv2d(128, 128, 3, padding=1, device=device, dtype=dtype)
    images = torch.randn(1, 128, resolution, resolution, device=device, dtype=dtype)
    with torch.no_grad():
        product = _fastest(lambda: matrix @ matrix, 3)
        convolution = _fastest(lambda: layer(images), 3)
        memory = _fastest(lambda: copy.copy_(original), 3)
    latency, backward, recomputed = _latencies(device, dtype)
    return Machine(
        flops_per_second=2 * side**3 / product,
        bytes_per_second=2 * length * dtype.itemsize / memory,
        latency=latency,
        backward_latency=backward,
        recomputed_latency=recomputed,
        convolution_flops_per_second=2 * 9 * 128**2 * resolution**2 / convolution,
        kernel=_kernel(device, dtype) if cuda else 0.0,
        asynchronous=cuda,
    )


def _fastest(work: Callable[[], Tensor], times: int, repeats: int = 5) -> float:
    """Seconds for one execution of `work`, from the fastest of some repeats of `times` executions."""
    return min(_seconds(work, times, repeats))


def _seconds(work: Callable[[], Tensor], times: int, repeats: int) -> list[float]:
    """Seconds for one execution of `work` in each of some repeats of `times` executions, after a warm-up."""
    seconds = []
    for _ in range(repeats + 1):  # the first is warm-up
        start = time.perf_counter()
        for _ in range(times):
            result = work()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        seconds.append((time.perf_counter() - start) / times)
    return seconds[1:]


def _latencies(device: str | torch.device, dtype: torch.dtype) -> tuple[float, float, float]:
    """Seconds for launching an operation: forward, backward, and recomputed under checkpointing; medians."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]), torch.device(device):
        unet: Any = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=4,
            cross_attention_dim=8,
            attention_head_dim=2,
        )
        state = torch.zeros(1, 4, 8, 8, dtype=dtype)
        words = torch.zeros(1, 4, 8, dtype=dtype)
    unet = nn.Module.to(unet.eval().requires_grad_(False), dtype)
    timestep = torch.zeros((), dtype=torch.int64, device=device)

    def forward() -> Tensor:
        with torch.no_grad():
            return unet(state, timestep, words, return_dict=False)[0]

    def gradient() -> Tensor:
        with torch.enable_grad():
            leaf = state.detach().requires_grad_()
            output = unet(leaf, timestep, words, return_dict=False)[0]
        return torch.autograd.grad(output, leaf, torch.ones_like(output))[0]

    def measure(work: Callable[[], Tensor]) -> tuple[float, dict[Phase, int]]:
        with Meter() as meter:
            work()
        return statistics.median(_seconds(work, 5, 5)), meter.operations

    seconds, operations = measure(forward)
    latency = seconds / operations["forward"]
    seconds_of_both, operations = measure(gradient)
    backward = (seconds_of_both - latency * operations["forward"]) / operations["backward"]
    unet.enable_gradient_checkpointing()
    seconds_checkpointed, operations = measure(gradient)
    recomputed = (seconds_checkpointed - seconds_of_both) / operations["recomputed"]
    return latency, max(0.0, backward), max(latency, recomputed)


def _kernel(device: str | torch.device, dtype: torch.dtype) -> float:
    """Seconds that a small operation takes in a captured graph: one of those of a vision transformer for one image."""
    norm, linear = nn.LayerNorm(768, device=device, dtype=dtype), nn.Linear(768, 768, device=device, dtype=dtype)
    tokens = torch.zeros(197, 768, device=device, dtype=dtype)

    def layers() -> Tensor:
        output = tokens
        for _ in range(100):
            output = linear(norm(output)) + output
        return output

    with torch.no_grad(), torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            layers()  # a capture needs libraries that have been initialised
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = layers()

        def replay() -> Tensor:
            graph.replay()
            return output

        return _fastest(replay, 5) / 300
