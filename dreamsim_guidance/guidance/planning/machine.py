"""What operations cost on a machine: arithmetic, memory traffic, and launching.

A GPU computes while the host already launches the next operations. Two clocks describe it: the host's, which advances by a
latency with each operation, and the device's, which begins an operation when it has finished the one before and the host has
launched it:

    host   <- host + latency
    device <- max(device, host) + max(kernel, flops / rate, bytes / bandwidth)

Small networks and small batches are bound by the host, large ones by the device. On a CPU there is one clock, and an
operation takes the sum of both.

Williams et al., Roofline: An Insightful Visual Performance Model, Communications of the ACM 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

__all__ = ["ARITHMETIC", "NO_TIME", "Duration", "Machine", "Phase"]

Phase = Literal["forward", "backward", "recomputed", "fused"]
"""How an operation is launched: by Python, by autograd, by Python again inside autograd (under checkpointing), or as a Triton
kernel of `dreamsim_guidance.metric.kernels`, forward or backward."""


@dataclass(frozen=True)
class Duration:
    """The duration of a sequence of operations, in a form that can be put together from parts.

    launching: seconds that the host needs to launch it. computing: seconds that the device is busy with it.
    total: seconds from the first launch to the last result, on a device that is idle at first; at least both.
    launches: number of launches.
    """

    launching: float = 0.0
    computing: float = 0.0
    total: float = 0.0
    launches: int = 0

    def then(self, following: Duration) -> Duration:
        """This sequence and then another, without waiting for the device in between."""
        return Duration(
            self.launching + following.launching,
            self.computing + following.computing,
            max(self.total + following.computing, self.launching + following.total),
            self.launches + following.launches,
        )

    def times(self, repeats: int) -> Duration:
        """This sequence several times in a row."""
        whole = NO_TIME
        for _ in range(repeats):
            whole = whole.then(self)
        return whole


NO_TIME = Duration()
"""Nothing has been launched."""


@dataclass(frozen=True)
class Machine:
    """How long an operation takes: the longer of its arithmetic and its memory traffic, and the launching before it.

    flops_per_second: rate of matrix products and attention. bytes_per_second: rate of memory traffic, by default unlimited.
    latency: seconds in which the host launches an operation from Python, which dominates small networks; by default 0.
    backward_latency: the same for autograd's backward pass. recomputed_latency: the same for what checkpointing recomputes in
        the backward pass. Both are as `latency` by default.
    fused_latency: the same for the Triton kernels of a stacked metric. None, the default, for a machine that does not run
        them: the plain operations are counted instead.
    convolution_flops_per_second: rate of convolutions between their norms, forward and backward, by default that of matrix
        products.
    kernel: least seconds that an operation takes on the device, also when a captured graph is replayed; by default 0.
    asynchronous: whether the device computes while the host launches further operations (a GPU); by default False.
    """

    flops_per_second: float
    bytes_per_second: float = math.inf
    latency: float = 0.0
    backward_latency: float | None = None
    recomputed_latency: float | None = None
    fused_latency: float | None = None
    convolution_flops_per_second: float | None = None
    kernel: float = 0.0
    asynchronous: bool = False

    def seconds(self, flops: float, traffic: float, phase: Phase = "forward", convolution: bool = False) -> float:
        """Duration of one operation by itself.

        flops: floating-point operations. traffic: bytes read and written. phase: how it is launched.
        convolution: whether the arithmetic is a convolution's.
        """
        return self.launching(phase) + self.computing(flops, traffic, convolution)

    def launching(self, phase: Phase = "forward") -> float:
        """Seconds in which the host launches one operation."""
        others = {
            "backward": self.backward_latency,
            "recomputed": self.recomputed_latency,
            "fused": self.fused_latency,
        }
        other = others.get(phase)
        return self.latency if other is None else other

    def computing(self, flops: float, traffic: float, convolution: bool = False) -> float:
        """Seconds of one operation on the device."""
        rate = self.convolution_flops_per_second if convolution else None
        return max(self.kernel, flops / (rate or self.flops_per_second), traffic / self.bytes_per_second)

    def duration(self, flops: float, traffic: float, phase: Phase = "forward", convolution: bool = False) -> Duration:
        """The same as `seconds`, in a form to which further operations can be added."""
        launching, computing = self.launching(phase), self.computing(flops, traffic, convolution)
        if not self.asynchronous:
            launching, computing = launching + computing, 0.0
        return Duration(launching, computing, launching + computing, 1)

    def captured(self, duration: Duration) -> Duration:
        """The duration of the same operations as one captured graph, which is launched once.

        Without a device that computes on its own there are no such graphs, and nothing changes.
        """
        if not self.asynchronous:
            return duration
        return Duration(self.latency, duration.computing, self.latency + duration.computing, 1)

    @classmethod
    def h200(cls) -> Machine:
        """One NVIDIA H200 in bfloat16, behind the slow host of a virtual machine.

        Matrix products (8192 cubed), memory traffic, and the 4.5 ms in which a captured graph of 950 kernels is replayed were
        measured there with PyTorch 2.11. The latencies and the rate of convolutions were fitted to the guided runs of Stable
        Diffusion 1.5 and XL in `benchmarks/results/guided_sampling_real_cuda.json`: an unguided step of 728 operations takes
        26 ms, one of 1854 operations 65 ms. The latency of a fused kernel is 2.5 times that of an operation, as
        `measured` found on another H200. With another host, `measured` is closer.
        """
        return cls(
            flops_per_second=686e12,
            bytes_per_second=4.14e12,
            latency=35e-6,
            backward_latency=38e-6,
            recomputed_latency=142e-6,
            fused_latency=88e-6,
            convolution_flops_per_second=120e12,
            kernel=4.7e-6,
            asynchronous=True,
        )

    @classmethod
    def measured(cls, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
        """Measure this machine in a few seconds.

        Rates are those of a matrix product, of the residual blocks of an image autoencoder forward and backward, and of a
        copy; latencies those of a denoiser of diffusers that is so small that only the number of its operations counts:
        forward, backward, and recomputed under checkpointing, and those of the metric's fused kernels, where they run.
        device: where to measure, "cpu" or a CUDA device. dtype: of the pipeline that is to be planned.
        """
        from dreamsim_guidance.guidance.planning.measuring import measure

        return measure(device, dtype)


ARITHMETIC = Machine(1e12)
"""A machine whose "seconds" are TFLOP: counts arithmetic alone, the same for every device."""
