"""Operations of one guidance step, counted at PyTorch's dispatcher: towers one by one, as one network, and with fused kernels.

    python benchmarks/operations.py --to benchmarks/results

Each operation that computes or copies is one kernel launch or more on a GPU, which bounds the time of small batches; views and
allocations are not counted. Fused kernels need a GPU: here their launches are counted and nothing is computed. The ensemble has
the published depth and narrow towers: the count does not depend on the width. It was made on the CPU: on a GPU some operations
have other names, and a profiler counts the kernels themselves.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from turns import describe_machine

from dreamsim_guidance import BranchConfig, DreamSim
from dreamsim_guidance.metric import kernels
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import VARIANTS

NARROW = {"embed_dim": 32, "num_heads": 2}


class Operations(TorchDispatchMode):
    """Counts the operations that run inside it, without views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = operation.name()
        if not operation.is_view and "_unsafe_view" not in name and "empty" not in name:
            self.counts[operation.name()] += 1
        return operation(*args, **(kwargs or {}))


@contextmanager
def fused_kernels(operations: Operations) -> Iterator[None]:
    """A context in which launches of fused kernels are counted, as if this were a GPU."""

    def count(kernel: Any, *arguments: Any, **options: Any) -> None:
        operations.counts[kernel.__name__] += 1

    with patch.object(kernels, "_launch", count), patch.object(kernels, "usable", lambda *tensors: True):
        yield


def narrow_ensemble() -> Ensemble:
    branches: list[BranchConfig] = []
    for branch in VARIANTS["ensemble"].branches:
        branches.append(replace(branch, overrides={**branch.overrides, **NARROW}))
    return Ensemble(branches)


def step(target: Any, images: Tensor) -> None:
    x = images.clone().requires_grad_()
    torch.autograd.grad(target(x).sum(), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    ensemble, images = narrow_ensemble(), torch.rand(1, 3, 224, 224)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for way in ("one by one", "as one", "as one, fused"):
            target = DreamSim(ensemble, dtype=dtype, stacked=way != "one by one").target(images)
            step(target, images)
            forward, whole = Operations(), Operations()
            fused = "fused" in way
            with torch.no_grad(), fused_kernels(forward) if fused else nullcontext(), forward:
                target(images)
            with fused_kernels(whole) if fused else nullcontext(), whole:
                step(target, images)
            row = {
                "dtype": str(dtype),
                "towers": way,
                "forward": forward.counts.total(),
                "step": whole.counts.total(),
            }
            rows.append({**row, "most": dict(whole.counts.most_common(12))})
            print(row)
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / "operations_ensemble.json"
    path.write_text(json.dumps({"machine": describe_machine(torch.get_num_threads()), "rows": rows}, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
