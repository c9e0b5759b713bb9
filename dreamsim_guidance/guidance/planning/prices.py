"""The parts of a guided step and their prices; a way of guiding is a sum of parts.

time   = repeats x (denoiser + pull_backs x back through it + gradients x (decoder and loss, there and back))
memory = weights + max(denoiser, its kept graph + decoder's and loss's, the way back)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from dreamsim_guidance.guidance.guide import guide
from dreamsim_guidance.guidance.log import Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.methods.mpgd import MPGD
from dreamsim_guidance.guidance.planning.cost import Cost, Machine, Meter
from dreamsim_guidance.guidance.planning.demand import Demand, demand_of
from dreamsim_guidance.guidance.planning.rehearsal import Rehearsal
from dreamsim_guidance.guidance.planning.twin import bytes_of, tensors_in, twin_of, twin_of_object
from dreamsim_guidance.guidance.run import Run
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.frozen import checkpointed, without_gradients

__all__ = ["Prices", "Way"]


@dataclass(frozen=True)
class Way:
    """One way to guide; `vae` is a twin, or None for the pipeline's own."""

    method: Method
    every: int
    vae: nn.Module | None
    checkpointing: bool


class Prices:
    """Counts each part once, when it is first asked for. A context manager, for its bar.

    options: of `guide`, the same for all ways.
    Raises what `Rehearsal` raises, and `RuntimeError` if the loss cannot be run on shapes.
    """

    def __init__(
        self,
        pipe: Any,
        loss: Callable[[Tensor], Tensor],
        call: Mapping[str, Any],
        machine: Machine,
        options: Mapping[str, Any],
        progress: bool,
    ) -> None:
        self._machine, self._views = machine, options["views"]
        self._options = {**options, "views": 1, "judges": {}}
        self._counted: dict[tuple[Any, ...], Any] = {}
        self._bar = tqdm(desc="plan", unit="part", disable=not progress, leave=False)
        try:
            self.rehearsal = Rehearsal(pipe, call)
        except BaseException:
            self._bar.close()
            raise
        self._loss = _on_shapes(loss, self.rehearsal.mode)
        self._weights_of_loss = bytes_of(loss)

    def __enter__(self) -> Prices:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    # Sums.

    def slowdown(self, way: Way) -> float:
        """Seconds per step, in the mean of the run, over those of the unguided step."""
        unguided = self.denoise(False, False)[0].seconds
        if unguided == 0:
            raise ValueError(
                "the denoiser does no arithmetic that is counted (matrix products, convolutions, attention); pass "
                "machine=Machine.measured(), which knows what other operations take."
            )
        through = way.method.through_denoiser
        there, back = self.denoise(through, through and way.checkpointing)
        run, steps = self._run(way), self.rehearsal.steps
        total = 0.0
        for index in range(steps):
            progress = index / steps
            if not run._guided(index, progress):
                total += unguided
                continue
            asks = self._demand(way.method, progress)
            gradients = asks.gradients * self.gradient(way.vae, way.checkpointing).seconds
            total += run.repeats(index, progress) * (there.seconds + asks.pull_backs * back.seconds + gradients)
        return total / (steps * unguided)

    def peak(self, way: Way) -> int:
        """Bytes of weights and of what a guided step needs beside them."""
        run = self._run(way)
        if not any(run._guided(i, i / self.rehearsal.steps) for i in range(self.rehearsal.steps)):
            return self.unguided_peak()
        gradient = self.gradient(way.vae, way.checkpointing).peak
        through = way.method.through_denoiser
        there, back = self.denoise(through, through and way.checkpointing)
        step = max(there.peak, back.peak, (there.held if through else 0) + gradient, self.delivery().peak)
        return self.weights() + self._weights_of_loss + bytes_of(self._additional(run)) + step

    def unguided_peak(self) -> int:
        """Bytes of weights and of what the pipeline needs beside them, in a step or for its last decoding."""
        return self.weights() + max(self.denoise(False, False)[0].peak, self.delivery().peak)

    def weights(self) -> int:
        """Bytes of the pipeline's networks; of those that a step asks, where they are offloaded in between."""
        rehearsal = self.rehearsal
        return bytes_of([original for twin, original in rehearsal.originals.items() if self._stays(twin)])

    # Parts.

    def denoise(self, graph: bool, checkpointing: bool) -> tuple[Cost, Cost]:
        """The denoiser of one step, and the way back through its graph."""
        return self._once(
            ("denoise", graph, checkpointing), self.rehearsal.denoise, self._machine, graph, checkpointing
        )

    def gradient(self, vae: nn.Module | None, checkpointing: bool) -> Cost:
        """Of the loss at one clean estimate: decoder and loss, forward and backward."""
        return self._once(("gradient", vae, checkpointing), self._gradient, vae, checkpointing)

    def delivery(self) -> Cost:
        """The pipeline's own decoding at the end, of which its autoencoder's options are part."""
        return self._once(("delivery",), self._delivery)

    def twin(self, network: nn.Module) -> nn.Module:
        """A network of the caller's as a twin."""
        return twin_of(network, self.rehearsal.mode)

    def _gradient(self, vae: nn.Module | None, checkpointing: bool) -> Cost:
        run, rehearsal = self._run(Way(MPGD(), 1, vae, checkpointing)), self.rehearsal
        decoder = run.decoder
        assert decoder is not None  # _run() has made it
        waiting: list[Cost] = []  # what is alive while the loss is asked

        class Answered(Views):
            def gradient(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
                waiting.append(meter.cost)
                return images.new_zeros(len(images)), torch.zeros_like(images)

        run.loss = Answered(self._loss)
        with rehearsal.mode, without_gradients(decoder.networks), ExitStack() as stack:
            if checkpointing:
                stack.enter_context(checkpointed(rehearsal.pipe))
            with torch.no_grad():
                images = decoder(rehearsal.x0)
            meter = stack.enter_context(Meter(self._machine))
            run._with_gradient(rehearsal.x0, decoder)
        loss, cost, views = self._once(("loss", images.shape), self._of_loss, images), meter.cost, self._views
        return Cost(
            cost.seconds + views * loss.seconds,
            cost.flops + views * loss.flops,
            max(cost.peak, waiting[0].held + loss.peak),
            cost.held,
        )

    def _of_loss(self, images: Tensor) -> Cost:
        views = Views(self._loss)
        per_sample = self._options.get("images_per_reference") or self.rehearsal.interception.images_per_prompt
        views.images_per_reference = per_sample * max(1, len(images) // len(self.rehearsal.x0))  # frames of a video
        with self.rehearsal.mode, Meter(self._machine) as meter:
            try:
                views.gradient(images, 0)
            except (ValueError, TypeError):
                raise  # these say it themselves
            except Exception as error:
                raise RuntimeError(
                    f"the loss cannot be run on shapes alone ({type(error).__name__}: {error}). Plan with one that does not "
                    "look at values and keeps its tensors in an nn.Module, or with loss=None."
                ) from error
        return meter.cost

    def _delivery(self) -> Cost:
        rehearsal = self.rehearsal
        try:
            with rehearsal.mode:
                decoder = Decoder(rehearsal.pipe, rehearsal.interception.geometry)
                with torch.no_grad(), Meter(self._machine) as meter:
                    decoder(rehearsal.x0)
        except ValueError:  # latents that only the pipeline knows; what it does with them cannot be told
            return Cost()
        return meter.cost

    def _run(self, way: Way) -> Run:
        rehearsal = self.rehearsal
        one = guide(
            rehearsal.pipe,
            self._loss,
            way.method,
            every=way.every,
            vae=way.vae,
            checkpointing=way.checkpointing,
            **self._options,
        ).run(Log())
        one.interception = rehearsal.interception
        with rehearsal.mode:
            one.begin(rehearsal.steps)
        return one

    def _additional(self, run: Run) -> list[nn.Module]:
        """Networks that decode for the guidance and are not in memory without it."""
        networks = run.decoder.networks if run.decoder is not None else []
        return [network for network in networks if network not in self.rehearsal.originals or not self._stays(network)]

    def _stays(self, twin: nn.Module) -> bool:
        """Whether a network of the pipeline is in the device's memory during a step."""
        offloaded = any(
            hasattr(part, "_hf_hook") for original in self.rehearsal.originals.values() for part in original.modules()
        )
        return not offloaded or twin in self.rehearsal.asked

    def _demand(self, method: Method, progress: float) -> Demand:
        share = round(progress, 1)
        return self._once(("demand", method, share), demand_of, method, share)

    def _once(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any) -> Any:
        if key not in self._counted:
            self._counted[key] = function(*arguments)
            if key[0] != "demand":
                self._bar.update()
        return self._counted[key]


def _on_shapes(loss: Callable[[Tensor], Tensor], mode: FakeTensorMode) -> Callable[[Tensor], Tensor]:
    """The loss as it can be called on the CPU's shapes: itself, or a twin where it lives on another device."""
    away = any(tensor.device.type != "cpu" for tensor in tensors_in(loss))
    return twin_of_object(loss, mode) if away else loss
