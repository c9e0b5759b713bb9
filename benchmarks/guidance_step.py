"""Time and memory of a guidance step, compared with the original package, on the CPU, in alternation in one process.

    python benchmarks/guidance_step.py --batches 1 4 16 --repeats 7 --to benchmarks/results

Jobs: `step`, the gradient of the distance with respect to the images, as a guidance or optimisation step needs it, with a fixed
reference for each image; `step, shared`, the same with one fixed reference for the whole batch; and `forward`, the distances
alone. The original runs as in its README, `model(images, references)`; ours embeds the fixed references once, with
`metric.target(references)`. Weights are random, in the original's file format (speed does not depend on them). Before the
timing, the two sides must agree. Batches of 16 and more are timed three times only. Peak memory is measured over one `step` in
a fresh process for each side and batch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import SIDES, describe_machine, print_row, take_turns

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from official_format import write_official


def load(side: str, folder: Path, variant: str, for_training: bool = False) -> Any:
    """Load the model of one side; for training with a separate adapter and without centring, as the original trains."""
    if side == "ours":
        from dreamsim_guidance import DreamSim

        metric = DreamSim(variant, weights=folder, resize=False, fold=False, normalize_embeds=not for_training)
        return metric if for_training else metric.fold()
    import dreamsim

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dreamsim_type": variant, "normalize_embeds": not for_training}
        return dreamsim.dreamsim(device="cpu", cache_dir=str(folder), **options)[0]


TOLERANCES = {"step": 1e-4, "step, shared": 1e-4, "forward": 1e-6}
"""Allowed differences between the sides: relative Euclidean for gradients, largest for distances."""


def jobs(side: str, model: Any, images: Tensor, references: Tensor) -> dict[str, Callable[[], Tensor]]:
    def loss(references: Tensor) -> Callable[[Tensor], Tensor]:
        return model.target(references) if side == "ours" else lambda x: model(x, references)

    def step(distance: Callable[[Tensor], Tensor]) -> Tensor:
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(distance(x).sum(), x)
        return gradient

    def forward(distance: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            return distance(images)

    distance = loss(references)
    functions = {"step": partial(step, distance), "forward": partial(forward, distance)}
    if len(images) > 1:
        functions["step, shared"] = partial(step, loss(references[:1]))
    return functions


def pictures(batch: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(batch)
    coarse = torch.rand(2 * batch, 3, 14, 14, generator=random)
    images, references = torch.nn.functional.interpolate(coarse, (224, 224), mode="bilinear").chunk(2)
    return images, references


def compare(folder: Path, variant: str, batches: list[int], repeats: int) -> list[dict[str, Any]]:
    models = {side: load(side, folder, variant) for side in SIDES}
    rows = []
    for batch in batches:
        work = {side: jobs(side, models[side], *pictures(batch)) for side in SIDES}
        for job in work["ours"]:
            original, ours = (work[side][job]() for side in SIDES)  # warm-up, and a check that both compute the same
            error = original - ours
            difference = error.abs().max().item() if job == "forward" else (error.norm() / original.norm()).item()
            if difference > TOLERANCES[job]:
                raise SystemExit(
                    f"{job} at batch {batch}: the sides differ by {difference:.1e}, allowed {TOLERANCES[job]:.0e}"
                )
            row = take_turns({side: work[side][job] for side in SIDES}, repeats if batch < 16 else 3)
            rows.append({"job": job, "batch": batch, **row, "difference": difference})
            print_row(f"{job:12} batch {batch:3}", row)
    return rows


def memory(side: str, folder: Path, variant: str, batch: int) -> dict[str, float]:
    """Resident memory in MB after loading, and its peak over one step."""
    model = load(side, folder, variant)
    step = jobs(side, model, *pictures(batch))["step"]
    resting = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    # reset the peak, so that the one of loading does not hide the one of the step
    Path("/proc/self/clear_refs").write_text("5")
    step()
    peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return {
        "resting_mb": resting,
        "peak_mb": peak / 2**10,
        "loading_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="ensemble")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--memory", nargs=3, metavar=("SIDE", "FOLDER", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        side, folder, batch = options.memory
        print(json.dumps(memory(side, Path(folder), options.variant, int(batch))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_official(scratch, options.variant)
        rows = compare(folder, options.variant, options.batches, options.repeats)
        peaks = []
        for batch in options.batches:
            for side in SIDES:
                command = [sys.executable, __file__, "--variant", options.variant, "--threads", str(options.threads)]
                command += ["--memory", side, str(folder), str(batch)]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                peaks.append({"side": side, "batch": batch, **json.loads(output.splitlines()[-1])})
                resting, peak = peaks[-1]["resting_mb"], peaks[-1]["peak_mb"]
                print(
                    f"memory       batch {batch:3}: {side:8} resting {resting:6.0f} MB, peak {peak:6.0f} MB", flush=True
                )
    machine = describe_machine(options.threads)
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / f"guidance_step_{options.variant}.json"
    path.write_text(
        json.dumps({"machine": machine, "repeats": options.repeats, "times": rows, "memory": peaks}, indent=1)
    )
    print("\n| job | batch | original, s | ours, s | ratio |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['job']} | {row['batch']} | {row['original_s']:.2f} | {row['ours_s']:.2f} | {row['ratio']:.2f} |")
    print(f"\n{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()
