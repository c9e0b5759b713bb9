"""What running some code would cost, counted from shapes while it runs on tensors without numbers.

Arithmetic is counted operation by operation with PyTorch's own formulas (matrix products, convolutions, attention); memory by
watching storages being born and dying, so that activations which a graph keeps, what checkpointing drops and recomputes, and
the temporaries of a backward pass are all in it, each storage once. Weights and inputs are older than the watch: they
are not.

Attention is counted, and its memory taken, as fused kernels have it, which do not store the matrix of all pairs.
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
"""Operations that older versions of PyTorch have no formula for, and their like."""


@dataclass(frozen=True)
class Machine:
    """How long an operation takes: the longer of its arithmetic and its memory traffic, and a latency.

    Williams et al., Roofline: An Insightful Visual Performance Model, Communications of the ACM 2009; the latency is that of
    launching an operation, which is all that tiny networks feel.
    """

    flops_per_second: float
    bytes_per_second: float = math.inf
    latency: float = 0.0

    def seconds(self, flops: float, traffic: float) -> float:
        """Of one operation that reads and writes `traffic` bytes."""
        return self.latency + max(flops / self.flops_per_second, traffic / self.bytes_per_second)

    @classmethod
    def measured(cls, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Machine:
        """This machine: a matrix product, a copy, and the layers of a network so small that only their number counts."""
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
    """Seconds of the fastest repeat, for one of its `times`."""
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
"""Counts arithmetic alone, the same everywhere: its "seconds" are TFLOP."""


@dataclass(frozen=True)
class Cost:
    """Of one part of a step. seconds: on the meter's machine; flops: arithmetic; peak, held: bytes, at most and in the end."""

    seconds: float = 0.0
    flops: int = 0
    peak: int = 0
    held: int = 0


class Meter(TorchDispatchMode):
    """Watches all operations in its `with` block; made for use inside a FakeTensorMode, right on real tensors too."""

    def __init__(self, machine: Machine = ARITHMETIC) -> None:
        super().__init__()
        self.machine = machine
        self.seconds = 0.0
        self.flops = 0
        self.live = 0
        """Bytes of the storages made in the block that are alive now."""
        self.peak = 0
        self._watched: dict[int, weakref.ref[Any]] = {}

    @property
    def cost(self) -> Cost:
        """Of all operations so far."""
        return Cost(self.seconds, self.flops, self.peak, self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for tensor in given:
            self._watch(tensor, own=False)
        out = func(*args, **kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        fresh = [self._watch(tensor, own=True) for tensor in made]
        packet = func._overloadpacket
        formula = flop_registry.get(packet) or flop_registry.get(SAME_SHAPES.get(packet))
        flops = formula(*args, **kwargs, out_val=out) if formula is not None else 0
        self.flops += flops
        if any(fresh) or func._schema.is_mutable:  # a view moves nothing
            traffic = sum(t.numel() * t.element_size() for t in (*given, *made))
            self.seconds += self.machine.seconds(float(flops), float(traffic))
        return out

    def _watch(self, tensor: Tensor, own: bool) -> bool:
        """Follow a tensor's storage; whether it was unknown."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watched:
            return False
        size = storage.nbytes() if own else 0
        self._watched[key] = weakref.ref(storage, partial(self._forget, key, size))
        self.live += size
        self.peak = max(self.peak, self.live)
        return True

    def _forget(self, key: int, size: int, _: Any) -> None:
        self._watched.pop(key, None)
        self.live -= size
