"""Counting the arithmetic, launches and memory of code while it runs on tensors that have shapes but no numbers.

Arithmetic is counted operation by operation with PyTorch's own formulas (matrix products, convolutions, attention). Memory is
counted by following storages from their allocation to their release, each once: activations that a graph keeps, what
checkpointing drops and recomputes, and temporaries of a backward pass are included; weights and inputs, which exist before,
are not. Attention is counted as fused kernels compute it, which do not store the matrix of all pairs.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dreamsim_guidance.guidance.planning.machine import ARITHMETIC, NO_TIME, Duration, Machine, Phase

__all__ = ["SAME_SHAPES", "Cost", "Meter"]

_ATEN = torch.ops.aten
SAME_SHAPES = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _ATEN._scaled_dot_product_flash_attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _ATEN._scaled_dot_product_flash_attention_backward,
}
"""Operations without a formula in older versions of PyTorch, and operations whose formula holds for them."""

_ALLOCATIONS = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided}
_CONVOLUTIONS = {_ATEN.convolution, _ATEN._convolution, _ATEN.convolution_backward}


@dataclass(frozen=True)
class Cost:
    """Cost of one part of a step.

    time: on the meter's machine. flops: floating-point operations. peak, held: bytes, at most and at the end.
    """

    time: Duration = NO_TIME
    flops: int = 0
    peak: int = 0
    held: int = 0

    @property
    def seconds(self) -> float:
        """From the first launch to the last result."""
        return self.time.total


class Meter(TorchDispatchMode):
    """Counts all operations in its `with` block; meant for use inside a FakeTensorMode, also correct for real tensors."""

    def __init__(self, machine: Machine = ARITHMETIC) -> None:
        super().__init__()
        self.machine = machine
        self.time = NO_TIME
        self.flops = 0
        self.operations: dict[Phase, int] = {"forward": 0, "backward": 0, "recomputed": 0, "fused": 0}
        """Number of operations that a device would have to launch; views and allocations are none."""
        self.live = 0
        """Bytes of the storages that were allocated in the block and are alive now."""
        self.peak = 0
        self._watched: dict[int, weakref.ref[Any]] = {}

    @property
    def cost(self) -> Cost:
        """The cost of all operations so far."""
        return Cost(self.time, self.flops, self.peak, self.live)

    def lap(self) -> Cost:
        """The cost of all operations so far; time and arithmetic are counted from zero again, memory goes on."""
        cost = self.cost
        self.time, self.flops = NO_TIME, 0
        return cost

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
        if (any(fresh) or func._schema.is_mutable) and packet not in _ALLOCATIONS:  # a view moves nothing
            self._launch(float(flops), (*inputs, *outputs), _phase(), packet in _CONVOLUTIONS)
        return out

    def fused(self, tensors: Sequence[Tensor], flops: float) -> None:
        """Count a launch of a fused kernel, which no dispatcher sees. tensors: that it reads or writes."""
        self.flops += int(flops)
        self._launch(flops, tensors, "fused")

    def _launch(self, flops: float, tensors: Sequence[Tensor], phase: Phase, convolution: bool = False) -> None:
        self.operations[phase] += 1
        traffic = sum(t.numel() * t.element_size() for t in tensors)
        self.time = self.time.then(self.machine.duration(flops, float(traffic), phase, convolution))

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


def _phase() -> Phase:
    """How the operation that runs now was launched."""
    if torch._C._current_graph_task_id() == -1:  # not inside of autograd's backward pass
        return "forward"
    return "recomputed" if torch.is_grad_enabled() else "backward"
