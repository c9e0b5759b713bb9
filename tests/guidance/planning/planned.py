"""Helpers for the tests of planning: a loss, a call, prices of ways to guide, and the arithmetic of a real run."""

from __future__ import annotations

from typing import Any

import torch
from tiny_pipeline import TinyPipeline
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dreamsim_guidance.guidance import Machine, Method, guide
from dreamsim_guidance.guidance.planning.machine import ARITHMETIC
from dreamsim_guidance.guidance.planning.prices import Prices, Way


def brightness(images: Tensor) -> Tensor:
    return images.square().flatten(1).mean(1)


def call_of(tiny: TinyPipeline, batch: int = 1, steps: int = 4) -> dict[str, Any]:
    return {**{k: tiny.cast(v) for k, v in tiny.inputs(batch).items()}, "num_inference_steps": steps}


def priced(tiny: TinyPipeline, loss: Any = brightness, machine: Machine = ARITHMETIC, **options: Any) -> Prices:
    """The prices of guiding `tiny`; its parts are counted once and serve for several ways of guiding."""
    return Prices(tiny.pipe, loss, call_of(tiny), machine, progress=False, **options)


def way(
    method: Method, vae: nn.Module | None = None, every: int = 1, checkpointing: bool = False, capture: bool = False
) -> Way:
    return Way(method, every, vae, checkpointing, capture)


class Counter(TorchDispatchMode):
    """Counts the FLOP of all operations that run; PyTorch's counter also follows modules, which fails in `autograd.grad`."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def run(tiny: TinyPipeline, **guidance: Any) -> None:
    """A real run without its final decoding; guided if `guidance` has arguments for `guide`."""
    call = {"output_type": "latent", **call_of(tiny), "generator": torch.Generator().manual_seed(0)}
    if guidance:
        with guide(tiny.pipe, brightness, judges={}, **guidance):
            tiny.pipe(**call)
    else:
        tiny.pipe(**call)


def arithmetic(tiny: TinyPipeline, **guidance: Any) -> int:
    """FLOP of a real run without its final decoding; guided if `guidance` has arguments for `guide`."""
    with Counter() as counter:
        run(tiny, **guidance)
    return counter.flops
