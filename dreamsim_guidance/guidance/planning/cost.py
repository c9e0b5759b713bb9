"""Counting the arithmetic and memory of code while it runs on tensors that have shapes but no numbers.

Arithmetic is counted operation by operation with PyTorch's own formulas (matrix products, convolutions, attention). Memory is
counted by following storages from their allocation to their release, each once: activations that a graph keeps, what
checkpointing drops and recomputes, and temporaries of a backward pass are included; weights and inputs, which exist before,
are not. Attention is counted as fused kernels compute it, which do not store the matrix of all pairs.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["ARITHMETIC", "SAME_SHAPES", "Cost", "Machine", "Meter"]

_ATEN = torch.ops.aten
SAME_SHAPES = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _ATEN._scaled_dot_product_flash_attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _ATEN._scaled_dot_product_flash_attention_backward,
}
"""Operations without a formula in older versions of PyTorch, and operations whose formula holds for them."""


@dataclass(frozen=True)
class Machine:
    """How long an operation takes: the longer of its arithmetic and its memory traffic, plus a latency.

    flops_per_second: rate of arithmetic. bytes_per_second: rate of memory traffic, by default unlimited.
    latency: seconds for launching an operation, which dominates tiny networks; by default 0.

    Williams et al., Roofline: An Insightful Visual Performance Model, Communications of the ACM 2009.
    """

    flops_per_second: float
    bytes_per_second: float = math.inf
    latency: float = 0.0

    def seconds(self, flops: float, traffic: float) -> float:
        """Duration of one operation with `flops` floating-point operations that reads and writes `traffic` bytes."""
        return self.latency + max(flops / self.flops_per_second, traffic / self.bytes_per_second)

    @classmethod
    def measured(cls, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
        """Measure this machine by a matrix product, a copy, and a network so small that only its number of layers counts."""
        side, length = (4096, 2**28) if torch.device(device).type == "cuda" else (768, 2**24)
        matrix = torch.randn(side, side, device=device, dtype=dtype)
        long, small = (
            torch.zeros(length, device=device, dtype=dtype),
            torch.zeros(1, 4, 4, 4, device=device, dtype=dtype),
        )
        copy = torch.zeros_like(long)
        layers = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU()).to(device, dtype)
        with torch.no_grad():
            arithmetic = _fastest(lambda: matrix @ matrix, 3)
            memory = _fastest(lambda: copy.copy_(long), 3)
            latency = _fastest(lambda: layers(small.view(1, 4, 4, 4)), 100) / len(layers)
        return cls(2 * side**3 / arithmetic, 2 * length * dtype.itemsize / memory, latency)


def _fastest(work: Callable[[], Tensor], times: int, repeats: int = 5) -> float:
    """Seconds for one execution of `work`, from the fastest of some repeats of `times` executions."""
    seconds = []
    for _ in range(repeats + 1):  # the first is warm-up
        start = time.perf_counter()
        for _ in range(times):
            result = work()
        if result.is_cuda:
            torch.cuda.synchronize(result.device)
        seconds.append((time.perf_counter() - start) / times)
    return min(seconds[1:])


ARITHMETIC = Machine(1e12)
"""A machine whose "seconds" are TFLOP: counts arithmetic alone, the same for every device."""


@dataclass(frozen=True)
class Cost:
    """Cost of one part of a step.

    seconds: on the meter's machine. flops: floating-point operations. peak, held: bytes, at most and at the end.
    """

    seconds: float = 0.0
    flops: int = 0
    peak: int = 0
    held: int = 0


class Meter(TorchDispatchMode):
    """Counts all operations in its `with` block; meant for use inside a FakeTensorMode, also correct for real tensors."""

    def __init__(self, machine: Machine = ARITHMETIC) -> None:
        super().__init__()
        self.machine = machine
        self.seconds = 0.0
        self.flops = 0
        self.live = 0
        """Bytes of the storages that were allocated in the block and are alive now."""
        self.peak = 0
        self._watched: dict[int, weakref.ref[Any]] = {}

    @property
    def cost(self) -> Cost:
        """The cost of all operations so far."""
        return Cost(self.seconds, self.flops, self.peak, self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in inputs:
            self._watch(tensor, allocated=False)
        out = func(*args, **kwargs)
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        fresh = [self._watch(tensor, allocated=True) for tensor in outputs]
        packet = func._overloadpacket
        formula = flop_registry.get(packet) or flop_registry.get(SAME_SHAPES.get(packet))
        flops = formula(*args, **kwargs, out_val=out) if formula is not None else 0
        self.flops += flops
        if any(fresh) or func._schema.is_mutable:  # a view moves nothing
            traffic = sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
            self.seconds += self.machine.seconds(float(flops), float(traffic))
        return out

    def _watch(self, tensor: Tensor, allocated: bool) -> bool:
        """Follow a tensor's storage and return whether it is new. allocated: in the block, so its bytes count."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watched:
            return False
        size = storage.nbytes() if allocated else 0
        self._watched[key] = weakref.ref(storage, partial(self._forget, key, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        return True

    def _forget(self, key: int, size: int, _: Any) -> None:
        self._watched.pop(key, None)
        self.live -= size
