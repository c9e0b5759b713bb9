"""Time of a guidance step with adapters that are not folded, relative to one that is, on the CPU, in turns in one process.

    python benchmarks/adapters.py --batch 8 --repeats 5 --to benchmarks/results

Four ways: folded; the active adapter, through peft; one adapter chosen for the call; two adapters chosen image by image. The
ensemble has full size and random weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from turns import describe_machine

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric.adapters import attach_adapter


def with_adapters(metric: DreamSim, *names: str) -> DreamSim:
    for name in names:
        attach_adapter(metric.ensemble, rank=16, alpha=8.0, dropout=0.0, name=name)
        with torch.no_grad():
            for key, parameter in metric.ensemble.named_parameters():
                if f".{name}." in key:
                    parameter.normal_(std=0.02)
        metric.set_adapter(name)
    metric.eval()
    return metric


def step(target: Callable[[Tensor], Tensor], images: Tensor) -> None:
    x = images.clone().requires_grad_()
    torch.autograd.grad(target(x).sum(), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="an even number")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    plain = DreamSim("ensemble", pretrained=False)
    live = with_adapters(DreamSim(copy.deepcopy(plain.ensemble), fold=False), "a", "b")
    images, references = torch.rand(2, options.batch, 3, 224, 224).unbind(0)
    targets = {
        "folded": plain.target(references),
        "active adapter, through peft": live.target(references),
        "one adapter for the call": live.target(references, adapters="a"),
        "an adapter for each image": live.target(references, adapters=["a", "b"] * (options.batch // 2)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in targets}
    for turn in range(options.repeats + 1):  # the first warms up
        for name in list(targets) if turn % 2 else list(targets)[::-1]:
            start = time.perf_counter()
            step(targets[name], images)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        ratios = [mine / base for mine, base in zip(times, seconds["folded"], strict=True)]
        rows.append(
            {"way": name, "seconds": statistics.median(times), "ratio": statistics.median(ratios), "ratios": ratios}
        )
        print(f"{name:32} {rows[-1]['seconds']:7.2f} s   {rows[-1]['ratio']:.2f} x folded", flush=True)
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / "adapters_ensemble.json"
    machine = describe_machine(torch.get_num_threads())
    path.write_text(json.dumps({"machine": machine, "batch": options.batch, "rows": rows}, indent=1))
    print(f"{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()
