"""Slowdown of sampling by guidance, measured and as predicted by `plan`, in alternation in one process.

    python benchmarks/guided_sampling.py --repeats 5                                        # tiny pipelines, CPU
    python benchmarks/guided_sampling.py --sizes real --device cuda --dtype bfloat16        # SD1.5 at 512, SDXL at 1024
    python benchmarks/guided_sampling.py --sizes real --device cuda --capture               # the gradient as CUDA graphs
    python benchmarks/guided_sampling.py --sizes real --device meta                         # predictions only

The ratio is that of the times per step with and without guidance. Pipelines are diffusers' classes with random weights (speed
does not depend on them) and prompts as embeddings. Tiny pipelines of several families are guided by a squared difference; their
ratio shows the overhead of guidance itself, which is mostly the launching of operations. Pipelines at real size are guided by
the architecture of the published ensemble, through their full autoencoder and through a tiny one (TAESD), with and without
checkpointing; on a GPU the peak of allocated memory is reported too. The file that is written names the processor and the GPU.

Calls have `--steps` steps each, without the final decoding. Each repeat is a `with guide(...)` block with two timed calls, and
two calls without guidance, one before and one after the block. The ratio is that of the steady state, as in long runs and in
blocks with several calls: the first call of a block, in which CUDA graphs are recorded if asked for, does not count in it, and
its seconds are reported apart. Predictions are made twice: from arithmetic alone, and with the measured rates and latency of
this machine (`Machine.measured`).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from turns import describe_machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pipelines"))
import real_pipelines
import tiny_pipelines

from dreamsim_guidance.guidance import Machine, guide
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.guidance.planning.machine import ARITHMETIC
from dreamsim_guidance.guidance.planning.prices import Prices, Way
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import variant

TINY = ("ddim", "sd-v", "sdxl", "sd3", "flux-dev", "flux2", "qwen-image", "sana", "pixart-sigma", "lcm")


@dataclass(frozen=True)
class Case:
    """A pipeline with the arguments of its call, and how it is guided."""

    name: str
    method: str
    pipe: Any
    call: dict[str, Any]
    loss: Callable[[Tensor], Tensor]
    options: dict[str, Any]

    @property
    def decoder(self) -> str:
        return "tiny" if self.options.get("vae") is not None else "own"

    def run(self, steps: int) -> None:
        """Call the pipeline; inside a block of `guide` it is guided."""
        generator = torch.Generator(self.pipe.device).manual_seed(0)
        latent = {} if self.call.get("output_type") else {"output_type": "latent"}
        self.pipe(**{**self.call, **latent, "num_inference_steps": steps, "generator": generator})

    def guide(self) -> Any:
        return guide(self.pipe, self.loss, method_class(self.method)(), judges={}, **self.options)

    def way(self, prices: Prices) -> Way:
        """How the case is guided, for `prices` of its pipeline."""
        vae = self.options.get("vae")
        twin = None if vae is None else prices.twin(vae)
        checkpointing, capture = bool(self.options.get("checkpointing")), self.options.get("capture", "auto")
        return Way(method_class(self.method)(), 1, twin, checkpointing, capture)


def squares(images: Tensor) -> Tensor:
    return (images - 0.25).square().flatten(1).mean(1)


class Features(nn.Module):
    """The published ensemble's three networks, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ensemble = Ensemble(variant("ensemble").branches).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.ensemble(images).square().mean(1)


def tiny_cases(families: Iterable[str], methods: Iterable[str]) -> Iterator[Case]:
    for family in families:
        tiny = tiny_pipelines.build(family)
        call = {key: tiny.cast(value) for key, value in tiny.inputs(1).items()}
        for method in methods:
            yield Case(family, method, tiny.pipe, call, squares, {})


def real_cases(
    names: Iterable[str],
    methods: Iterable[str],
    device: str,
    dtype: torch.dtype,
    loss: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Case]:
    """Cases at real size, guided by `loss` or by `Features`. Each pipeline is built once, and freed when the next is built."""
    if loss is None:
        with torch.device(device):
            loss = Features()
    for name in names:
        pipe, call = real_pipelines.build(name, device, dtype)
        call = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in call.items()}
        with torch.device(device):
            tiny = nn.Module.to(real_pipelines.tiny_autoencoder(pipe.vae.config.latent_channels), dtype)
        for method in methods:
            for vae in (None, tiny):
                for checkpointing in (False, True):
                    yield Case(name, method, pipe, call, loss, {"vae": vae, "checkpointing": checkpointing})


def measure(case: Case, steps: int, repeats: int, seconds: float = math.inf) -> dict[str, Any]:
    """Seconds per step without and with guidance, and their ratio: median and [smallest, largest]; on a GPU also the peaks.

    seconds: after as many, no further repeat begins.
    Guided steps are those of the steady state. `first_s` has the seconds of a block's first guided call, of all its steps and
    with what is recorded in it.
    """
    device, end = case.pipe.device, time.perf_counter() + seconds
    cuda = device.type == "cuda"
    unguided: list[float] = []
    first: list[float] = []
    guided: list[float] = []
    peaks = {"unguided_peak": 0, "guided_peak": 0}
    reserved = 0

    def timed(peak: str) -> float:
        if cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        case.run(steps)
        if cuda:
            torch.cuda.synchronize(device)
            peaks[peak] = max(peaks[peak], torch.cuda.max_memory_allocated(device))
        return time.perf_counter() - start

    timed("unguided_peak")  # the warm-up
    for repeat in range(repeats):
        if repeat and time.perf_counter() > end:
            break
        unguided.append(timed("unguided_peak") / steps)
        if cuda and not repeat:
            torch.cuda.empty_cache()
        with case.guide():
            first.append(timed("guided_peak"))
            if cuda and not repeat:  # the memory of recorded graphs counts as reserved only
                reserved = torch.cuda.max_memory_reserved(device)
            guided += [timed("guided_peak") / steps for _ in range(2)]
        unguided.append(timed("unguided_peak") / steps)
    return {
        **_spread("unguided_s", unguided),
        **_spread("guided_s", guided),
        **_spread("ratio", [g / u for u, g in zip(unguided, guided, strict=True)]),
        **_spread("first_s", first),
        **({**peaks, "guided_reserved": reserved} if cuda else {}),
    }


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    return {name: statistics.median(values), f"{name}_spread": [min(values), max(values)]}


def terms(prices: Prices, way: Way) -> dict[str, dict[str, float]]:
    """What a prediction is made of: launches of each part, and seconds of the host, of the device, and of both together."""
    parts = {
        "unguided step": prices.denoise(False, False)[0].time,
        "loss": prices.loss(way.vae).time,
        "decoder and loss": prices.gradient(way.vae, way.checkpointing).time,
        "guided step": prices.guided_step(way, 0.5),
    }
    return {name: asdict(duration) for name, duration in parts.items()}


class Predictions:
    """Predictions of `plan` from arithmetic and, unless `machine` is None, for that machine; counts each pipeline only once."""

    def __init__(self, machine: Machine | None) -> None:
        self.machine = machine
        self._pipe: Any = None
        self._prices: list[Prices] = []

    def of(self, case: Case) -> dict[str, Any]:
        if case.pipe is not self._pipe:
            machines = [ARITHMETIC] if self.machine is None else [ARITHMETIC, self.machine]
            self._pipe, self._prices = case.pipe, []
            gc.collect()  # pipelines hold themselves in cycles
            self._prices = [Prices(case.pipe, case.loss, case.call, machine, progress=False) for machine in machines]
        ways = [case.way(prices) for prices in self._prices]
        slowdowns = [prices.slowdown(way) for prices, way in zip(self._prices, ways, strict=True)]
        prices, way = self._prices[-1], ways[-1]
        here = {} if self.machine is None else {"predicted_here": slowdowns[1], "terms": terms(prices, way)}
        return {"predicted": slowdowns[0], "predicted_peak": prices.peak(way), **here}


def row_of(case: Case, steps: int, repeats: int, predictions: Predictions) -> dict[str, Any]:
    row = {
        "pipeline": case.name,
        "method": case.method,
        "decoder": case.decoder,
        "checkpointing": bool(case.options.get("checkpointing")),
        "capture": bool(case.options.get("capture")),
    }
    # first: it frees the pipeline before, whose weights would count in the measured peaks
    predicted = predictions.of(case)
    measured = {} if predictions.machine is None else measure(case, steps, repeats)
    return {**row, **measured, **predicted}


def table_row(row: dict[str, Any]) -> str:
    def number(name: str, form: str) -> str:
        return form.format(row[name]) if name in row else "-"

    spread = row.get("ratio_spread")
    cells = [
        f"{row['pipeline']}, {row['method']}",
        row["decoder"] + (", checkpointed" if row["checkpointing"] else "") + (", captured" if row["capture"] else ""),
        number("unguided_s", "{:.4f}"),
        number("guided_s", "{:.4f}"),
        number("first_s", "{:.2f}"),
        number("ratio", "{:.2f}") + (f" [{spread[0]:.2f}, {spread[1]:.2f}]" if spread else ""),
        number("predicted_here", "{:.2f}"),
        f"{row['predicted']:.2f}",
        *([f"{row['guided_peak'] / 2**30:.2f}"] if "guided_peak" in row else []),
        f"{row['predicted_peak'] / 2**30:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=("tiny", "real"), default="tiny")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or meta for predictions alone")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="at real size")
    parser.add_argument("--pipelines", nargs="+", help="families of tiny pipelines, or some of sd15 sdxl sd35 flux")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--capture", action="store_true", help="run the gradient as CUDA graphs; without checkpointing")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.sizes == "tiny" and options.device != "cpu":
        parser.error("tiny pipelines run on the CPU; --device cuda or meta goes with --sizes real")
    if options.capture and options.device != "cuda":
        parser.error("--capture records CUDA graphs; it goes with --device cuda")
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype) if options.sizes == "real" else torch.float32
    machine = None if options.device == "meta" else Machine.measured(options.device, dtype)
    cases = (
        tiny_cases(options.pipelines or TINY, options.methods or ("mpgd", "dps", "freedom", "tfg"))
        if options.sizes == "tiny"
        else real_cases(
            options.pipelines or ("sd15", "sdxl"), options.methods or ("mpgd", "dps"), options.device, dtype
        )
    )
    if options.capture:
        cases = (case for case in cases if not case.options.get("checkpointing"))
    cases = (replace(case, options={**case.options, "capture": options.capture}) for case in cases)
    rows, predictions = [], Predictions(machine)
    columns = ["pipeline, method", "decoder", "unguided, s", "guided, s", "first guided call, s", "ratio, steady"]
    columns += ["predicted here", "by arithmetic"]
    columns += [*(["peak, GiB"] if options.device == "cuda" else []), "predicted peak, GiB"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    for case in cases:
        rows.append(row_of(case, options.steps, options.repeats, predictions))
        print(table_row(rows[-1]), flush=True)
    description = describe_machine(options.threads)
    if options.device == "cuda":
        description["gpu"] = torch.cuda.get_device_name()
    options.to.mkdir(parents=True, exist_ok=True)
    captured = "_captured" if options.capture else ""
    path = options.to / f"guided_sampling_{options.sizes}_{options.device}{captured}.json"
    rates = None if machine is None else vars(machine)
    results = {"machine": description, "rates": rates, "repeats": options.repeats, "steps": options.steps, "rows": rows}
    path.write_text(json.dumps(results, indent=1))
    print(f"\n{description}\nwritten to {path}")


if __name__ == "__main__":
    main()
