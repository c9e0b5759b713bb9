"""Measuring what operations cost on the machine at hand.

The rate of convolutions is that of residual blocks of an image autoencoder, forward and backward, beyond what their other
operations take: a convolution by itself, forward alone, runs several times as fast as in a decoder that is differentiated. The
latency of an operation is that of a denoiser of diffusers which is so small that only the number of its operations counts,
since the Python code around an operation takes more time than the launch itself. That of a fused kernel is measured with the
kernels themselves: Triton launches them from Python, between checks of their arguments.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.guidance.planning.machine import Machine, Phase
from dreamsim_guidance.metric import kernels

__all__ = ["measure"]


def measure(device: str | torch.device, dtype: torch.dtype) -> Machine:
    """Measure the device and its host in a few seconds; `Machine.measured` says how."""
    cuda = torch.device(device).type == "cuda"
    side, length = (4096, 2**28) if cuda else (768, 2**24)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    original = torch.zeros(length, device=device, dtype=dtype)
    copy = torch.zeros_like(original)
    with torch.no_grad():
        product = _fastest(lambda: matrix @ matrix, 3)
        memory = _fastest(lambda: copy.copy_(original), 3)
    del matrix, original, copy
    latency, backward, recomputed, fused = _latencies(device, dtype)
    machine = Machine(
        flops_per_second=2 * side**3 / product,
        bytes_per_second=2 * length * dtype.itemsize / memory,
        latency=latency,
        backward_latency=backward,
        recomputed_latency=recomputed,
        fused_latency=fused,
        kernel=_kernel(device, dtype) if cuda else 0.0,
        asynchronous=cuda,
    )
    return replace(machine, convolution_flops_per_second=_convolutions(machine, device, dtype))


def _fastest(work: Callable[[], Tensor], times: int, turns: int = 5) -> float:
    """Seconds for one execution of `work`, from the fastest of some turns of `times` executions."""
    return min(_seconds([work], times, turns)[0])


def _seconds(works: list[Callable[[], Tensor]], times: int, turns: int) -> list[list[float]]:
    """Seconds for one execution of each work in some turns of `times` executions, after a warm-up.

    The works take turns, so that a host that is slow for a while is slow for all of them.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(turns + 1):  # the first is warm-up
        for work, durations in zip(works, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(times):
                result = work()
            if result.is_cuda:
                torch.cuda.synchronize(result.device)
            durations.append((time.perf_counter() - start) / times)
    return [durations[1:] for durations in seconds]


def _convolutions(machine: Machine, device: str | torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of the convolutions of residual blocks, at the three widths and resolutions of a decoder's stages.

    Of the blocks' time, forward and backward, what the machine needs for their norms and activations is subtracted. At most
    the rate of matrix products.
    """
    from diffusers.models.resnet import ResnetBlock2D

    resolution = 512 if torch.device(device).type == "cuda" else 32
    stages: list[tuple[nn.Module, Tensor]] = []
    with torch.random.fork_rng(devices=[]), torch.device(device):
        for channels, size in ((128, resolution), (256, resolution // 2), (512, resolution // 4)):
            block = nn.Module.to(ResnetBlock2D(in_channels=channels, temb_channels=None), dtype)
            stages.append((block.requires_grad_(False), torch.ones(1, channels, size, size, dtype=dtype)))

    def gradients() -> Tensor:
        for block, features in stages:
            leaf = features.detach().requires_grad_()
            with torch.enable_grad():
                output = block(leaf, None)
            result = torch.autograd.grad(output, leaf, features)[0]
        return result

    slow = 1e9  # so that convolutions take arithmetic alone
    with Meter(replace(machine, convolution_flops_per_second=slow)) as meter:
        gradients()
    time = meter.time.computing if machine.asynchronous else meter.time.total
    others = time - meter.flops / slow
    seconds = _fastest(gradients, 3) - others
    return meter.flops / max(seconds, meter.flops / machine.flops_per_second)


def _latencies(device: str | torch.device, dtype: torch.dtype) -> tuple[float, float, float, float | None]:
    """Seconds for launching an operation: forward, backward, recomputed under checkpointing, and fused; medians.

    What a forward pass takes longer when its graph is kept is attributed to the backward pass. The last is None where fused
    kernels do not run.
    """
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
        tokens = torch.zeros(2, 1, 4, 64, dtype=dtype)
        scale = torch.ones(2, 64, dtype=dtype)
    unet = nn.Module.to(unet.eval().requires_grad_(False), dtype)
    timestep = torch.zeros((), dtype=torch.int64, device=device)

    def forward() -> Tensor:
        with torch.no_grad():
            return unet(state, timestep, words, return_dict=False)[0]

    def gradient(checkpointing: bool = False) -> Tensor:
        (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
        with torch.enable_grad():
            leaf = state.detach().requires_grad_()
            output = unet(leaf, timestep, words, return_dict=False)[0]
        return torch.autograd.grad(output, leaf, torch.ones_like(output))[0]

    def checkpointed() -> Tensor:
        return gradient(checkpointing=True)

    def fused() -> Tensor:
        with torch.enable_grad():
            leaf = x = tokens.detach().requires_grad_()
            y: Tensor | None = None
            for _ in range(_FUSED // 4):
                x, normed = kernels.add_norm(x, y, scale, scale, scale, (1e-6, 1e-5), dtype, scale)
                y = kernels.activate(normed, (False, True), scale)
        assert y is not None
        return torch.autograd.grad((x, y), leaf, (tokens, tokens))[0]

    works: list[Callable[[], Tensor]] = [forward, gradient, checkpointed]
    if kernels.usable(tokens, scale):
        works.append(fused)
    counts: list[dict[Phase, int]] = []
    for work in works:
        with Meter() as meter:
            work()
        counts.append(meter.operations)
    seconds = [statistics.median(durations) for durations in _seconds(works, 3, 9)]
    latency = seconds[0] / counts[0]["forward"]
    backward = (seconds[1] - latency * counts[1]["forward"]) / counts[1]["backward"]
    recomputed = (seconds[2] - seconds[1]) / counts[2]["recomputed"]
    return latency, max(0.0, backward), max(latency, recomputed), seconds[3] / _FUSED if len(seconds) > 3 else None


_FUSED = 80
"""Fused kernels in the work that measures their latency: a quarter each of norms and activations, forward and backward."""


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
