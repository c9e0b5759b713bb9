"""Predicting what guidance costs before anything is run: time per step over the unguided step, and peak memory.

    print(plan(pipe, loss, DPS(), prompt="a cat", memory=24))

Nothing is computed: the user's own call is rehearsed up to its first step with networks that have shapes only, and the parts of
a guided step (denoiser, decoder, loss, forward and backward) run their real code on shapes while arithmetic and memory are
counted. How often a method uses each part is found by asking the method. Most of the cost of guiding through an image
autoencoder is its decoder, so each way of guiding is shown beside others that cost less.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from torch import Tensor, nn

from dreamsim_guidance.guidance.guiding import default_method, guide
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods.mpgd import MPGD
from dreamsim_guidance.guidance.planning.assumptions import PublishedLoss, tiny_decoder
from dreamsim_guidance.guidance.planning.machine import ARITHMETIC, Machine
from dreamsim_guidance.guidance.planning.prices import Prices, Way

__all__ = ["Option", "Plan", "plan"]

GIB = 2**30


@dataclass(frozen=True)
class Option:
    """One way to guide.

    switches: what to change in the call of `guide`; empty for the way that was asked about.
    slowdown: seconds per step, averaged over the run, divided by those of the unguided step; at least 1.
    peak_bytes: weights and what a guided step needs beside them, or the pipeline's own last decoding if that is more.
    fits: whether both are within the budget.
    """

    switches: tuple[str, ...]
    slowdown: float
    peak_bytes: int
    fits: bool


@dataclass(frozen=True)
class Plan:
    """The result of `plan`; printing it shows a table.

    options: the way that was asked about, then others in the order of what they give up, least first; those that are neither
        faster nor smaller than an earlier one are left out.
    unguided_bytes: peak memory of the pipeline without guidance. weight_bytes: of the pipeline's networks.
    memory, slowdown: the budget in GiB and as a factor; None for no limit.
    """

    options: tuple[Option, ...]
    unguided_bytes: int
    weight_bytes: int
    memory: float | None = None
    slowdown: float | None = None

    @property
    def asked(self) -> Option:
        """The way of guiding with the arguments that `plan` received."""
        return self.options[0]

    @property
    def best(self) -> Option | None:
        """The first option that fits the budget; None if none does."""
        return next((option for option in self.options if option.fits), None)

    def within(self, memory: float | None = None, slowdown: float | None = None) -> Plan:
        """The same plan under another budget.

        memory: in GiB (2^30 bytes). slowdown: seconds per step over those of the unguided step. None for no limit.
        Raises `ValueError` for a memory of 0 or less and a slowdown below 1.
        """
        _check_budget(memory, slowdown)
        size = math.inf if memory is None else memory * GIB
        time = math.inf if slowdown is None else slowdown
        options = [replace(o, fits=o.peak_bytes <= size and o.slowdown <= time) for o in self.options]
        return replace(self, options=tuple(options), memory=memory, slowdown=slowdown)

    def __str__(self) -> str:
        names = ["unguided", *(", ".join(option.switches) or "as asked" for option in self.options)]
        width = max(len(name) for name in names)
        rows = [f"{'':{width}}  {'time per step':>13}  {'peak memory':>11}"]
        rows.append(f"{names[0]:{width}}  {'1.00 x':>13}  {_bytes(self.unguided_bytes):>11}")
        budget = self.memory is not None or self.slowdown is not None
        for name, option in zip(names[1:], self.options, strict=True):
            verdict = ("  fits" if option.fits else "  too much") if budget else ""
            rows.append(f"{name:{width}}  {option.slowdown:>11.2f} x  {_bytes(option.peak_bytes):>11}{verdict}")
        return "\n".join([*rows, self._verdict()] if budget else rows)

    def _verdict(self) -> str:
        limits = [
            *([f"{self.memory:g} GiB"] if self.memory is not None else []),
            *([f"{self.slowdown:g} x"] if self.slowdown is not None else []),
        ]
        within = f"Within {' and '.join(limits)}: "
        if self.best is None:
            smallest = min(option.peak_bytes for option in self.options)
            fastest = min(option.slowdown for option in self.options)
            return (
                f"{within}nothing fits; the least is {_bytes(smallest)} or {fastest:.2f} x. Fewer images at once, smaller "
                "images, or a pipeline with offloading need less."
            )
        return within + (", ".join(self.best.switches) or "as asked") + "."


def plan(
    pipe: Any,
    loss: Callable[[Tensor], Tensor] | None = None,
    method: Method | None = None,
    *,
    memory: float | None = None,
    slowdown: float | None = None,
    window: tuple[float, float] = (0.0, 1.0),
    every: int = 1,
    vae: nn.Module | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    views: int = 1,
    checkpointing: bool = False,
    images_per_reference: int | None = None,
    capture: bool | Literal["auto"] = "auto",
    machine: Machine = ARITHMETIC,
    progress: bool = True,
    **call: Any,
) -> Plan:
    """Predict time and memory of `guide(pipe, loss, method, ...)` around `pipe(**call)`, and what would reduce them.

    pipe: its networks may be on any device, also on the meta device, so that a model can be judged before it is downloaded.
    loss, method, window, every, vae, decode, views, checkpointing, images_per_reference: as for `guide`. The loss may be on the
        meta device; without one, the published ensemble's three networks are counted. The cost of an augmentation itself is
        not included.
    memory: of the device, in GiB (2^30 bytes). slowdown: acceptable seconds per step over those of the unguided step, at least
        1. By default there is no limit.
    capture: as for `guide`, if `machine` is a GPU (`Machine.measured("cuda")`, `Machine.h200()`). For other machines, time and
        memory are those without graphs.
    machine: what an operation takes. By default arithmetic alone is counted, the same for every device, which suits large
        models on fast hosts; `Machine.measured(device, dtype)` and `Machine.h200()` include memory traffic and the launching
        of operations, which takes longer than the arithmetic of a loss on few images.
    progress: show a bar on stderr. Counting takes seconds to a minute, depending on the number of operations, not on sizes.
    call: the arguments of the pipeline's call. Where the text encoder cannot run on shapes, pass embeddings
        (`prompt_embeds=...`), on the meta device if they are not known.

    The switches that are tried, in the order of what they give up: `checkpointing=True` (time only), a tiny autoencoder for
    the gradient (a decoder that differs slightly from the pipeline's), `every=` 2 and 4 (less guidance), and `MPGD()` instead
    of a method through the denoiser (another approximation).
    Memory is that of tensors: a device's context, fragmentation and convolution workspaces come on top. Offloaded networks
    count while a step needs them. For 16 ways of guiding Stable Diffusion 1.5 and XL without graphs, the slowdowns for
    `Machine.h200()` are within 25 % of those measured on such a GPU, and peaks 1 to 5 % below (`benchmarks/plan_accuracy.py`).
    For `Machine.measured("cuda")` and the stacked metric as loss, 8 ways on such a GPU, 4 of them with graphs, were within 18 %
    (`benchmarks/gpu.py --only guided`).

    Raises `ValueError` for an invalid budget and for arguments of `guide` that are not counted (`schedule`, `until`,
    `augmentation`, `judges`, `baseline`, `callback`), what `guide` raises for its arguments, what the pipeline raises for its
    call, and `RuntimeError` if a network or the loss cannot be run on shapes.
    """
    if loss is None:
        loss = PublishedLoss()
    _check_call(pipe, call)
    options: dict[str, Any] = {"window": window, "decode": decode, "views": views}
    options["images_per_reference"] = images_per_reference
    guiding: dict[str, Any] = {"every": every, "vae": vae, "checkpointing": checkpointing, "capture": capture}
    guide(pipe, loss, method, **guiding, **options)  # for its errors
    _check_budget(memory, slowdown)
    worthwhile: list[Option] = []
    with Prices(pipe, loss, call, machine, **options, progress=progress) as prices:
        decoder = None if vae is None else prices.twin(vae)
        asked = Way(default_method(pipe) if method is None else method, every, decoder, checkpointing, capture)
        tiny = tiny_decoder(pipe) if vae is None and decode is None else None
        for way, switches in _ways(asked, None if tiny is None else (prices.twin(tiny[0]), tiny[1])):
            time, peak = prices.slowdown(way), prices.peak(way)
            if not any(option.slowdown <= time and option.peak_bytes <= peak for option in worthwhile):
                worthwhile.append(Option(switches, time, peak, True))
        return Plan(tuple(worthwhile), prices.unguided_peak(), prices.weights()).within(memory, slowdown)


def _check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    """Refuse arguments of `guide` that are not counted; many pipelines would accept and ignore them."""
    accepted = inspect.signature(type(pipe).__call__).parameters if callable(pipe) else {}
    misplaced = [name for name in call if name in inspect.signature(guide).parameters and name not in accepted]
    if misplaced:
        raise ValueError(
            f"plan counts every step in the window as guided at full cost and has no argument {', '.join(misplaced)}; leave it "
            "out here and give it to guide alone."
        )


def _check_budget(memory: float | None, slowdown: float | None) -> None:
    if memory is not None and not 0 < memory < math.inf:
        raise ValueError(f"memory must be a number of GiB above 0, got {memory!r}.")
    if slowdown is not None and not 1 <= slowdown < math.inf:
        raise ValueError(f"slowdown must be a factor of at least 1, the unguided step's own, got {slowdown!r}.")


def _ways(asked: Way, tiny: tuple[nn.Module, str] | None) -> Iterator[tuple[Way, tuple[str, ...]]]:
    """`asked` and other ways with their switches, ordered by what they give up, least first."""
    methods: list[tuple[Method, list[str]]] = [(asked.method, [])]
    if asked.method.through_denoiser:
        methods.append((MPGD(), ["method=MPGD()"]))
    rarer = [(asked.every * k, [f"every={asked.every * k}"] if k > 1 else []) for k in (1, 2, 4)]
    decoders: list[tuple[nn.Module | None, list[str]]] = [(asked.vae, [])]
    if tiny is not None:
        decoders.append((tiny[0], [f"vae={tiny[1]}"]))
    memory: list[tuple[bool, list[str]]] = [(asked.checkpointing, [])]
    if not asked.checkpointing:
        memory.append((True, ["checkpointing=True"]))
    for chosen in product(methods, rarer, decoders, memory):
        (method, a), (every, b), (vae, c), (checkpointing, d) = chosen
        capture = "auto" if checkpointing and not asked.checkpointing else asked.capture  # they cannot be combined
        yield Way(method, every, vae, checkpointing, capture), (*a, *b, *c, *d)


def _bytes(size: int) -> str:
    for unit, length in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= length / 10:
            return f"{size / length:.2f} {unit}"
    return f"{size / 2**10:.2f} KiB"
