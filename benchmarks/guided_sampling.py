"""Slowdown of sampling by guidance, measured and as predicted by `plan`, in alternation in one process.

    python benchmarks/guided_sampling.py --repeats 7                                        # tiny pipelines, CPU
    python benchmarks/guided_sampling.py --sizes real --device cuda --dtype bfloat16        # SD1.5 at 512, SDXL at 1024
    python benchmarks/guided_sampling.py --sizes real --device meta                         # predictions only

The ratio is that of the times per step with and without guidance. Pipelines are diffusers' classes with random weights (speed
does not depend on them) and prompts as embeddings. Tiny pipelines of several families are guided by a squared difference; their
ratio shows the overhead of guidance itself, which is mostly the launching of operations. Pipelines at real size are guided by
the architecture of the published ensemble, through their full autoencoder and through a tiny one (TAESD), with and without
checkpointing; on a GPU the peak of allocated memory is reported too. The file that is written names the processor and the GPU.

Each repeat is one call without and one with guidance, of `--steps` steps each, without the final decoding. Predictions are made
twice: from arithmetic alone, and with the measured rates and latency of this machine (`Machine.measured`).
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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

    def run(self, guided: bool, steps: int) -> None:
        device = self.pipe.device
        generator = torch.Generator(device).manual_seed(0)
        latent = {} if self.call.get("output_type") else {"output_type": "latent"}
        arguments = {**self.call, **latent, "num_inference_steps": steps, "generator": generator}
        if not guided:
            self.pipe(**arguments)
        else:
            with guide(self.pipe, self.loss, method_class(self.method)(), judges={}, **self.options):
                self.pipe(**arguments)

    def predict(self, prices: Prices) -> tuple[float, int]:
        """Slowdown and peak bytes, as `plan` would predict them."""
        vae = self.options.get("vae")
        twin = None if vae is None else prices.twin(vae)
        checkpointing, capture = bool(self.options.get("checkpointing")), self.options.get("capture", "auto")
        way = Way(method_class(self.method)(), 1, twin, checkpointing, capture)
        return prices.slowdown(way), prices.peak(way)


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


def real_cases(names: Iterable[str], methods: Iterable[str], device: str, dtype: torch.dtype) -> Iterator[Case]:
    """Cases at real size. Each pipeline is built once, and freed when the next one is built."""
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


def measure(case: Case, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds per step without and with guidance, and their ratio: median and [smallest, largest]; on a GPU also the peaks."""
    device = case.pipe.device
    seconds: dict[bool, list[float]] = {False: [], True: []}
    peaks, reserved = {False: 0, True: 0}, 0
    for turn in range(repeats + 1):  # turn 0 is the warm-up
        for guided in (False, True) if turn % 2 else (True, False):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                if not turn:
                    torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            start = time.perf_counter()
            case.run(guided, steps)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                peaks[guided] = max(peaks[guided], torch.cuda.max_memory_allocated(device))
                if guided and not turn:  # the memory of recorded graphs counts as reserved only
                    reserved = torch.cuda.max_memory_reserved(device)
            if turn:
                seconds[guided].append((time.perf_counter() - start) / steps)
    memory = {"unguided_peak": peaks[False], "guided_peak": peaks[True], "guided_reserved": reserved}
    ratios = [g / u for u, g in zip(seconds[False], seconds[True], strict=True)]
    return {
        **_spread("unguided_s", seconds[False]),
        **_spread("guided_s", seconds[True]),
        **_spread("ratio", ratios),
        **(memory if device.type == "cuda" else {}),
    }


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    return {name: statistics.median(values), f"{name}_spread": [min(values), max(values)]}


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
        predictions = [case.predict(prices) for prices in self._prices]
        here = {} if self.machine is None else {"predicted_here": predictions[1][0]}
        return {"predicted": predictions[0][0], "predicted_peak": predictions[-1][1], **here}


def row_of(case: Case, steps: int, repeats: int, predictions: Predictions) -> dict[str, Any]:
    checkpointing = bool(case.options.get("checkpointing"))
    row = {"pipeline": case.name, "method": case.method, "decoder": case.decoder, "checkpointing": checkpointing}
    predicted = predictions.of(
        case
    )  # first: it frees the pipeline before, whose weights would count in the measured peaks
    measured = {} if predictions.machine is None else measure(case, steps, repeats)
    return {**row, **measured, **predicted}


def table_row(row: dict[str, Any]) -> str:
    def number(name: str, form: str) -> str:
        return form.format(row[name]) if name in row else "-"

    spread = row.get("ratio_spread")
    cells = [
        f"{row['pipeline']}, {row['method']}",
        row["decoder"] + (", checkpointed" if row["checkpointing"] else ""),
        number("unguided_s", "{:.4f}"),
        number("guided_s", "{:.4f}"),
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
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.sizes == "tiny" and options.device != "cpu":
        parser.error("tiny pipelines run on the CPU; --device cuda or meta goes with --sizes real")
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
    rows, predictions = [], Predictions(machine)
    columns = ["pipeline, method", "decoder", "unguided, s", "guided, s", "ratio", "predicted here", "by arithmetic"]
    columns += [*(["peak, GiB"] if options.device == "cuda" else []), "predicted peak, GiB"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    for case in cases:
        rows.append(row_of(case, options.steps, options.repeats, predictions))
        print(table_row(rows[-1]), flush=True)
    description = describe_machine(options.threads)
    if options.device == "cuda":
        description["gpu"] = torch.cuda.get_device_name()
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / f"guided_sampling_{options.sizes}_{options.device}.json"
    rates = None if machine is None else vars(machine)
    results = {"machine": description, "rates": rates, "repeats": options.repeats, "steps": options.steps, "rows": rows}
    path.write_text(json.dumps(results, indent=1))
    print(f"\n{description}\nwritten to {path}")


if __name__ == "__main__":
    main()
