"""The whole table of the metric and of guidance on one GPU, in one command of less than eight minutes.

    python benchmarks/gpu.py                                            # everything; writes results/gpu_table_cuda.json
    python benchmarks/gpu.py --only step memory --minutes 3             # some parts
    python benchmarks/gpu.py --check                                    # the tests marked gpu
    python benchmarks/gpu.py --device cpu --only peers --batches 1 4    # peers on the CPU
    python benchmarks/gpu.py --device cpu --tiny                        # a test of this script

Weights are random, in the original's file format: speed does not depend on them. Sides of a comparison take turns in one
process; figures are medians with the least and the largest. A step is the gradient of the distance with respect to the images,
towards fixed references, at 224 pixels unless said otherwise. The original embeds the references anew in each step; it has no
other way. Before the timing, each side's distance is compared with the original's, or with the first side's without it.

What is not installed, and what the time does not suffice for, is left out with a line that says why. The file is written after
each part, so that a run that is stopped keeps what it has measured. This script is long because its parts share one table.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from gpu_sides import PEERS, Side, Sides, peer_distance
from torch import Tensor
from turns import describe_machine, interleaved

from dreamsim_guidance.files.atomic import write_text
from dreamsim_guidance.guidance.planning.cost import Meter
from dreamsim_guidance.metric import kernels

ROOT = Path(__file__).parents[1]
ORIGINALS = [Side("original", precision) for precision in ("float32", "tf32", "autocast")]
OURS = [Side(kind, p) for p in ("tf32", "bfloat16", "float16") for kind in ("one by one", "stacked", "captured")]
FLOPS_PER_IMAGE = 0.21e12
"""Floating-point operations of a step for one image: forward, and backward to the image."""

Row = dict[str, Any]


class Bench:
    """What the parts share: options, models, and the time that is left."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.device, self.tiny, self.repeats = options.device, options.tiny, 1 if options.tiny else options.repeats
        self.cuda = self.device.startswith("cuda")
        self.end = time.monotonic() + 60 * options.minutes
        self.sides = Sides(folder, self.device, self.tiny)
        self.batches: list[int] = options.batches or ([1, 2] if self.tiny else [1, 4, 16, 64])
        self.largest = self.batches[-1]
        self.originals = ORIGINALS[:1] if self.tiny else ORIGINALS
        self.ours = [s for s in OURS if s.precision != "float16"] if self.tiny else OURS
        self.peaks: dict[str, float] = {}
        """Measured FLOP per second of a matrix product, by precision."""

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def time(self, work: dict[str, Callable[[], Any]], seconds: float = 1.0) -> dict[str, dict[str, float]]:
        # on a CPU, the processes beside this one would count in the time that passes
        clock = time.perf_counter if self.cuda else time.process_time
        return interleaved(work, self.repeats, seconds, self.wait, clock)

    def peak_bytes(self, work: Callable[[], Any]) -> int:
        """Bytes that `work` needs at most beyond what exists already; on the CPU those of tensors alone."""
        if not self.cuda:
            with Meter() as meter:
                work()
            return meter.peak
        gc.collect()
        self.wait()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() - before

    def pictures(self, batch: int, size: int = 224, seed: int = 0) -> Tensor:
        coarse = torch.rand(batch, 3, 14, 14, generator=torch.Generator().manual_seed(seed))
        return F.interpolate(coarse, (size, size), mode="bilinear").to(self.device)

    def usable(self, sides: Iterable[Side]) -> Iterator[Side]:
        """The sides that can run here; a line for each that cannot."""
        for side in sides:
            if side.kind == "captured" and not self.cuda:
                leave_out(str(side), "CUDA graphs need a GPU")
                continue
            if side.kind == "original":
                try:
                    self.sides.model("original", side.precision)
                except ImportError as error:
                    leave_out(str(side), str(error))
                    continue
            yield side

    def late(self, what: str) -> bool:
        """Whether the time is used up; says so."""
        if time.monotonic() < self.end:
            return False
        leave_out(what, "the time is used up; see --minutes")
        return True


def leave_out(what: str, why: str) -> None:
    print(f"left out: {what} ({why})", flush=True)


# Parts. Each yields rows, which are printed and written as they come.


def product(bench: Bench) -> Iterator[Row]:
    """Rate of a large matrix product in each precision: the peak that steps are compared with."""
    side = 64 if bench.tiny else 8192 if bench.cuda else 1024
    for name, dtype in (("float32", "float32"), ("tf32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")):
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        a = torch.randn(side, side, device=bench.device, dtype=getattr(torch, dtype))
        seconds = bench.time({name: partial(torch.mm, a, a)})[name]
        bench.peaks[name] = 2 * side**3 / seconds["least_s"]
        yield {"precision": name, "side": side, **seconds, "tflops": bench.peaks[name] / 1e12}
    torch.set_float32_matmul_precision("highest")


def step(bench: Bench) -> Iterator[Row]:
    """A guidance step at several batches, all sides in turns."""
    sides = list(bench.usable([*bench.originals, *bench.ours]))
    for batch in bench.batches:
        if bench.late(f"step, batch {batch}"):
            return
        yield from compared(bench, sides, batch, bench.pictures(batch), bench.pictures(1, seed=1))


def compared(bench: Bench, sides: list[Side], batch: int, images: Tensor, references: Tensor) -> Iterator[Row]:
    """Rows of a step of each side; fails if their distances differ more than their precisions allow."""
    with torch.no_grad():
        distances = {s: bench.sides.target(s, references)(images).float() for s in sides if s.kind != "captured"}
    expected = next(iter(distances.values()))
    for side, distance in distances.items():
        difference = float(((distance - expected).abs() / expected).max())
        if difference > (0.01 if side.precision in ("float32", "tf32") else 0.1):
            raise SystemExit(f"{side}: distances are off by {difference:.1e} from those of {sides[0]}")
    seconds = bench.time({str(s): bench.sides.step(s, images, references) for s in sides})
    best = min((seconds[str(s)]["s"] for s in sides if s.kind == "original"), default=None)
    for side in sides:
        taken = seconds[str(side)]
        row = {"side": str(side), "batch": batch, **taken}
        if best is not None:
            row["over_best_original"] = best / taken["s"]
        peak = bench.peaks.get("bfloat16" if side.precision == "autocast" else side.precision)
        if peak is not None and not bench.tiny:  # the original's work on the references is not counted
            row["share_of_peak"] = FLOPS_PER_IMAGE * batch / taken["s"] / peak
        yield row


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory of a step at the largest batch, beyond the weights; with checkpointing its time too."""
    images, references = bench.pictures(bench.largest), bench.pictures(1, seed=1)
    for side in bench.usable([*bench.originals, *(s for s in bench.ours if s.kind != "captured")]):
        if bench.late(f"memory, {side}"):
            return
        work = bench.sides.step(side, images, references)
        work()
        weights = sum(p.numel() * p.element_size() for p in bench.sides.model(side.kind, side.precision).parameters())
        row = {"side": str(side), "batch": bench.largest, "weight_bytes": weights}
        yield {**row, "step_bytes": bench.peak_bytes(work)}
        if side.kind == "stacked":
            branches = bench.sides.model(side.kind, side.precision).ensemble.branches
            for branch in branches:
                branch.backbone.set_grad_checkpointing(True)
            seconds = bench.time({"checkpointed": work})["checkpointed"]
            yield {**row, "side": f"{side}, checkpointed", "step_bytes": bench.peak_bytes(work), **seconds}
            for branch in branches:
                branch.backbone.set_grad_checkpointing(False)


def training(bench: Bench) -> Iterator[Row]:
    """A step of a training loss: both pictures are new, the first one gets the gradient."""
    sides = [ORIGINALS[2], Side("one by one", "autocast"), Side("stacked", "autocast"), Side("stacked", "bfloat16")]
    usable = list(bench.usable(sides))
    for batch in bench.batches[-2:]:
        if bench.late(f"training, batch {batch}"):
            return
        pictures = bench.pictures(batch), bench.pictures(batch, seed=1)
        seconds = bench.time({str(s): bench.sides.training_step(s, *pictures) for s in usable})
        for side in usable:
            yield {"side": str(side), "batch": batch, **seconds[str(side)]}


def launches(bench: Bench) -> Iterator[Row]:
    """Kernels of a step of one image, counted by the profiler; on the CPU, operations that are no views."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    images, references = bench.pictures(1), bench.pictures(1, seed=1)
    for side in bench.usable([ORIGINALS[0], *(Side(k, "bfloat16") for k in ("one by one", "stacked", "captured"))]):
        work = bench.sides.step(side, images, references)
        for _ in range(3):
            work()
        bench.wait()
        if not bench.cuda:
            with Meter() as meter:
                work()
            yield {"side": str(side), "operations": sum(meter.operations.values())}
            continue
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            work()
            bench.wait()
        events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
        copies = sum(event.name.lower().startswith(("memcpy", "memset")) for event in events)
        yield {"side": str(side), "kernels": len(events) - copies, "copies": copies}


def fused(bench: Bench) -> Iterator[Row]:
    """Stacked towers with and without the fused (Triton) kernels."""
    if not bench.cuda:
        return leave_out("fused", "the fused kernels need a GPU")
    for batch in bench.batches:
        if bench.late(f"fused, batch {batch}"):
            return
        images, references = bench.pictures(batch), bench.pictures(1, seed=1)
        work: dict[str, Callable[[], Any]] = {}
        for side in (Side("stacked", "bfloat16"), Side("captured", "bfloat16")):
            fused_step, plain_step = (bench.sides.step(side, images, references) for _ in range(2))
            work[f"{side}, fused"] = fused_step
            # a captured step keeps what was recorded, so each has a target of its own
            work[f"{side}, plain"] = partial(without_fused_kernels, plain_step)
        seconds = bench.time(work)
        yield from ({"side": name, "batch": batch, **seconds[name]} for name in work)


def without_fused_kernels(work: Callable[[], Any]) -> Any:
    with patch.object(kernels, "usable", lambda *tensors: False):
        return work()


def scaling(bench: Bench) -> Iterator[Row]:
    """A step in bfloat16 over the batch, the number of references, and the size of the images."""
    sides = list(bench.usable([Side("stacked", "bfloat16"), Side("captured", "bfloat16")]))
    cases: list[tuple[str, int, Tensor, Tensor, dict[str, Any]]] = []
    mean = {"reduction": "mean"}
    for batch in (1, 2) if bench.tiny else (1, 2, 4, 8, 16, 32, 64, 128, 256):
        cases.append(("batch", batch, bench.pictures(batch), bench.pictures(1, seed=1), {}))
    for count in (1, 2) if bench.tiny else (1, 4, 16, 64):
        cases.append(("references", count, bench.pictures(4), bench.pictures(count, seed=1), mean))
    for size in (224, 256) if bench.tiny else (224, 256, 512, 768, 1024, 2048):
        cases.append(("image size", size, bench.pictures(1, size), bench.pictures(1, size, seed=1), {}))
    for over, value, images, references, options in cases:
        if bench.late(f"scaling, {over} {value}"):
            return
        seconds = bench.time({str(s): bench.sides.step(s, images, references, **options) for s in sides}, 0.5)
        yield from ({"side": str(side), "over": over, "value": value, **seconds[str(side)]} for side in sides)


def guided(bench: Bench) -> Iterator[Row]:
    """A step of a guided pipeline in its steady state over one without guidance, with the prediction of `plan`.

    CUDA graphs are recorded in the first call, which is timed apart.
    """
    try:
        import guided_sampling as sampling
    except ImportError as error:
        return leave_out("guided", str(error))
    from dreamsim_guidance.guidance import Machine

    bench.sides.forget()  # the peaks are those of the process
    dtype = torch.float32 if bench.tiny else torch.bfloat16
    machine = Machine.measured(bench.device, dtype)
    yield {"side": "measured machine", **vars(machine)}
    predictions = sampling.Predictions(machine)
    side, steps = Side("stacked", "float32" if bench.tiny else "bfloat16"), 4
    loss = bench.sides.target(side, bench.pictures(1, seed=1))
    if bench.tiny:
        cases = (replace(case, loss=loss) for case in sampling.tiny_cases(["sd-v"], ["mpgd"]))
    elif bench.cuda:
        cases = sampling.real_cases(("sd15", "sdxl"), ("mpgd",), bench.device, dtype, loss)
    else:
        return leave_out("guided", "pipelines at real size need a GPU")
    captures: list[dict[str, Any]] = [{"capture": False}, *([{"capture": True}] if bench.cuda else [])]
    for case in cases:
        if case.options.get("checkpointing") or bench.late(f"guided, {case.name} with {case.decoder} decoder"):
            continue
        pictures = bench.pictures(1, case.call.get("height", 224))
        alone = bench.time({"loss": bench.sides.gradient(side, loss, pictures)})["loss"]["s"]
        case = replace(case, call={**case.call, "num_inference_steps": steps})
        for capture in captures:
            chosen = replace(case, options={**case.options, **capture})
            row = {**capture, "pipeline": case.name, "method": case.method, "decoder": case.decoder, "loss_s": alone}
            row |= predictions.of(chosen)  # first: it frees the pipeline before
            yield {**row, **sampling.measure(chosen, steps, 1 if bench.tiny else 3, seconds=3.0)}


def noise(bench: Bench) -> Iterator[Row]:
    """A gradient with respect to the initial noise of a whole pipeline, with checkpointed networks and without."""
    try:
        import guided_sampling as sampling
    except ImportError as error:
        return leave_out("noise", str(error))
    from dreamsim_guidance.inversion import Noise

    bench.sides.forget()  # the peaks are those of the process
    if bench.tiny:
        cases = sampling.tiny_cases(["sdxl-turbo", "sd-v"], ["mpgd"])
    elif bench.cuda:
        cases = sampling.real_cases(("sdxl", "sd15"), ("mpgd",), bench.device, torch.bfloat16)
    else:
        return leave_out("noise", "pipelines at real size need a GPU")
    for case in cases:
        if case.options.get("vae") is not None or case.options.get("checkpointing"):
            continue
        turbo = case.name.startswith("sdxl")
        size = {} if bench.tiny else {"height": 512, "width": 512}
        call = {**case.call, **size, "num_inference_steps": 1 if turbo else 4, "guidance_scale": 0.0 if turbo else 5.0}
        for checkpointing in (True, False):
            if bench.late(f"noise, {case.name}, checkpointing {checkpointing}"):
                return
            through = Noise(case.pipe, checkpointing=checkpointing, **call)
            latents = through.sample(1, torch.Generator().manual_seed(0)).requires_grad_()
            work = partial(gradient_of_images, through, latents)
            try:
                seconds = bench.time({"step": work})["step"]
                row = {"pipeline": case.name, "steps": call["num_inference_steps"], "checkpointed": checkpointing}
                yield {**row, **seconds, "step_bytes": bench.peak_bytes(work)}
            except torch.cuda.OutOfMemoryError as error:
                leave_out(f"noise, {case.name}, checkpointing {checkpointing}", str(error).split(".")[0])


def gradient_of_images(through: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    return torch.autograd.grad(through(latents).square().mean(), latents)[0]


def peers(bench: Bench) -> Iterator[Row]:
    """Other perceptual losses, as their packages run them in float32, beside ours: time and memory of a step."""
    batches = bench.batches[:1] if bench.tiny else bench.batches[:3:2] if bench.cuda else bench.batches[:2]
    distances: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    for name in () if bench.tiny else PEERS:
        try:
            distances[name] = peer_distance(name, bench.device)
        except ImportError as error:
            leave_out(name, str(error))
    kinds = ["stacked", "captured"] if bench.cuda else ["one by one", "stacked"]
    own = [Side(kind, p) for p in (("float32", "float16") if bench.cuda else ("float32",)) for kind in kinds]
    others = list(bench.usable([ORIGINALS[0]]))
    for size in (224,) if bench.tiny or not bench.cuda else (224, 512):
        for batch in batches:
            if bench.late(f"peers, {size} pixels, batch {batch}"):
                return
            images, references = bench.pictures(batch, size), bench.pictures(batch, size, seed=1)
            exact = Side("original", "float32")  # what the peers run in
            sides = own if size != 224 else [*others, *own]  # the original takes 224 pixels alone
            work = {str(side): bench.sides.step(side, images, references) for side in sides}
            for name, distance in distances.items():
                work[name] = bench.sides.gradient(exact, partial(towards, distance, references), images)
            seconds = bench.time(work)
            for name, function in work.items():
                row = {"side": name, "size": size, "batch": batch, **seconds[name]}
                yield row if "captured" in name else {**row, "step_bytes": bench.peak_bytes(function)}


def towards(distance: Callable[[Tensor, Tensor], Tensor], references: Tensor, images: Tensor) -> Tensor:
    return distance(images, references)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "product": product,
    "step": step,
    "launches": launches,
    "memory": memory,
    "training": training,
    "fused": fused,
    "guided": guided,
    "noise": noise,
    "peers": peers,
    "scaling": scaling,
}


# The table.


def table_row(row: Row) -> str:
    """One line of the table: what was measured, then times in milliseconds, memory in GiB, and ratios."""
    names = [str(row[key]) for key in ("side", "precision", "pipeline", "method", "decoder") if key in row]
    names += [
        f"{key} {row[key]}"
        for key in ("over", "value", "batch", "size", "capture", "steps", "checkpointed")
        if key in row
    ]
    cells = [", ".join(names)]
    if "s" in row:
        cells.append(f"{1e3 * row['s']:.2f} ms [{1e3 * row['least_s']:.2f}, {1e3 * row['most_s']:.2f}]")
    cells += [f"{row[key] / 2**30:.2f} GiB {key[:-6]}" for key in ("weight_bytes", "step_bytes") if key in row]
    cells += [f"{row[key]} {key}" for key in ("kernels", "copies", "operations") if key in row]
    if "tflops" in row:
        cells.append(f"{row['tflops']:.1f} TFLOP/s")
    if "over_best_original" in row:
        cells.append(f"{row['over_best_original']:.2f} x the original at its best")
    if "share_of_peak" in row:
        cells.append(f"{row['share_of_peak']:.0%} of the peak")
    if "ratio" in row:
        cells.append(f"{1e3 * row['unguided_s']:.1f} -> {1e3 * row['guided_s']:.1f} ms a step, {row['ratio']:.2f} x")
        cells.append(f"predicted {row['predicted_here']:.2f} x")
        cells.append(f"first call of 4 steps {row['first_s']:.2f} s")
    if "guided_peak" in row:
        cells.append(f"{row['guided_peak'] / 2**30:.2f} GiB, predicted {row['predicted_peak'] / 2**30:.2f} GiB")
    for name, term in row.get("terms", {}).items():
        host, device, total = (f"{1e3 * term[key]:.1f}" for key in ("launching", "computing", "total"))
        measured = f" (measured alone: {1e3 * row['loss_s']:.1f})" if name == "loss" else ""
        cells.append(f"{name}: {term['launches']} launches, host {host}, device {device}, {total} ms{measured}")
    cells += [f"{1e-12 * row[key]:.3g} T{key}" for key in row if key.endswith("_per_second")]
    cells += [f"{key} {1e6 * row[key]:.3g} us" for key in row if key.endswith(("latency", "kernel")) and row[key]]
    return "| " + " | ".join(cells) + " |"


def check() -> int:
    """Run the tests marked gpu, from the files that have any, and return pytest's exit status."""
    files = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "-q", *files], cwd=ROOT).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=f"parts: {', '.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=8.0, help="no further row begins after as many")
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--repeats", type=int, default=15, help="of each row, at most")
    parser.add_argument("--tiny", action="store_true", help="narrow towers and tiny pipelines, to test this script")
    parser.add_argument("--check", action="store_true", help="run the tests marked gpu instead")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if options.check:
        sys.exit(check())
    machine = describe_machine(torch.get_num_threads())
    if options.device.startswith("cuda"):
        machine |= {"gpu": torch.cuda.get_device_name(options.device), "cores": os.cpu_count()}
    options.to.mkdir(parents=True, exist_ok=True)
    kind = options.device.partition(":")[0] + ("_tiny" if options.tiny else "")
    path = options.to / f"gpu_table_{kind}.json"
    results: dict[str, Any] = {"machine": machine, "parts": {}}
    if options.only and path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if earlier["machine"] == machine:
            results = earlier
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch))
        for name in options.only or PARTS:
            if bench.late(name):
                continue
            start = time.monotonic()
            summary = (PARTS[name].__doc__ or "").splitlines()[0]
            print(f"\n{name}: {summary}", flush=True)
            rows = results["parts"][name] = []
            for row in PARTS[name](bench):
                rows.append(row)
                print(table_row(row), flush=True)
                write_text(path, json.dumps(results, indent=1) + "\n")
            print(f"({time.monotonic() - start:.0f} s)", flush=True)
    print(f"\n{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()
