"""The parts of a guided step and their prices; a way of guiding is a sum of parts.

time   = repeats x (denoiser + pull_backs x backward through it + gradients x (decoder and loss, forward and backward)
                    + the method's own arithmetic)
memory = weights + max(the last step's kept graph + denoiser, its kept graph + decoder's and loss's, the backward pass)

A sum of times is that of operations launched one after another: the device may still be busy with one part while the host
launches the next. The graph of a step is kept until the pipeline overwrites the denoiser's output in the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from dreamsim_guidance.guidance.captured import CapturedGradient
from dreamsim_guidance.guidance.gradient import gradient_through
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.planning.cost import Cost, Meter
from dreamsim_guidance.guidance.planning.demand import demand_of
from dreamsim_guidance.guidance.planning.machine import NO_TIME, Duration, Machine
from dreamsim_guidance.guidance.planning.rehearsal import Rehearsal
from dreamsim_guidance.guidance.planning.twin import bytes_of, tensors_in, twin_of, twin_of_object
from dreamsim_guidance.guidance.timing import Timing
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.metric import kernels
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.frozen import checkpointed
from dreamsim_guidance.preprocess import tables_at_hand

__all__ = ["Prices", "Way"]


@dataclass(frozen=True)
class Way:
    """One way to guide: the arguments of `guide` that `plan` varies. `vae` is a twin, or None for the pipeline's own.

    capture: whether decoder and loss with their gradients are launched as one graph; "auto" as `guide` decides it.
    """

    method: Method
    every: int
    vae: nn.Module | None
    checkpointing: bool
    capture: bool | Literal["auto"] = "auto"


class Prices:
    """Counts each part once, when it is first asked for. A context manager, for its progress bar.

    pipe, call: the pipeline and the arguments of its call. loss: as for `guide`. machine: what an operation takes.
    window, decode, views, images_per_reference: of `guide`, the same for all ways.
    progress: show a bar on stderr.
    Raises what `Rehearsal` raises, and `RuntimeError` if the loss cannot be run on shapes.
    """

    def __init__(
        self,
        pipe: Any,
        loss: Callable[[Tensor], Tensor],
        call: Mapping[str, Any],
        machine: Machine,
        *,
        window: tuple[int | float, int | float] = (0.0, 1.0),
        decode: Callable[[Tensor], Tensor] | None = None,
        views: int = 1,
        images_per_reference: int | None = None,
        progress: bool = True,
    ) -> None:
        self._machine, self._window, self._decode, self._views = machine, window, decode, views
        self._counted: dict[tuple[Any, ...], Any] = {}
        self._bar = tqdm(desc="plan", unit="part", disable=not progress, leave=False)
        try:
            self.rehearsal = Rehearsal(pipe, call)
        except BaseException:
            self._bar.close()
            raise
        self._images_per_reference = images_per_reference or self.rehearsal.sampling.images_per_prompt
        self._loss = _on_shapes(loss, self.rehearsal.mode)
        self._weights_of_loss = bytes_of(loss)

    def __enter__(self) -> Prices:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    # Sums.

    def slowdown(self, way: Way) -> float:
        """Seconds per step over those of the unguided step, averaged over the run.

        Raises `ValueError` if the denoiser does no arithmetic that is counted.
        """
        unguided = self.denoise(False, False)[0].time
        if unguided.total == 0:
            raise ValueError(
                "the denoiser does no arithmetic that is counted (matrix products, convolutions, attention); pass "
                "machine=Machine.measured(), which includes the duration of other operations."
            )
        method, steps = way.method, self.rehearsal.sampling.steps
        guided: dict[float, Duration] = {}  # by share of the run, to a tenth
        total = NO_TIME
        for index in range(steps):
            if not self._guided(way, index):
                total = total.then(unguided)
                continue
            share = round(index / steps, 1)
            if share not in guided:
                guided[share] = self.guided_step(way, share)
            total = total.then(guided[share].times(method.repeats(index / steps)))
        return total.total / unguided.times(steps).total

    def guided_step(self, way: Way, share: float) -> Duration:
        """A guided step at this share of the run, made once."""
        machine = self._machine
        demand = demand_of(way.method, share, tuple(self.rehearsal.x0.shape[1:]))
        gradient = self.gradient(way.vae, way.checkpointing).time
        if self._captured(way):
            gradient = machine.captured(gradient)
        forward, backward = self._denoise(way)
        time = forward.time.then(gradient.times(demand.gradients)).then(backward.time.times(demand.pull_backs))
        return time.then(machine.duration(0.0, 0.0).times(demand.operations))

    def peak(self, way: Way) -> int:
        """Peak memory of a guided step in bytes, weights included."""
        if not any(self._guided(way, index) for index in range(self.rehearsal.sampling.steps)):
            return self.unguided_peak()
        gradient = self.gradient(way.vae, way.checkpointing).peak
        forward, backward = self._denoise(way)
        graph = forward.held if way.method.through_denoiser else 0
        before = graph if self._guided_in_a_row(way) else 0
        if self._captured(way):  # whose memory belongs to the recorded graph until the end
            step = gradient + max(before + forward.peak, backward.peak, self.delivery().peak)
        else:
            step = max(before + forward.peak, backward.peak, graph + gradient, self.delivery().peak)
        return self.weights() + self._weights_of_loss + bytes_of(self._additional(way.vae)) + step

    def unguided_peak(self) -> int:
        """Peak memory of the unguided pipeline in bytes, weights included: in a step or for its last decoding."""
        return self.weights() + max(self.denoise(False, False)[0].peak, self.delivery().peak)

    def weights(self) -> int:
        """Bytes of the pipeline's networks; of those that a step uses, where they are offloaded in between."""
        originals = self.rehearsal.originals
        return bytes_of([original for twin, original in originals.items() if self._stays(twin)])

    # Parts.

    def denoise(self, graph: bool, checkpointing: bool) -> tuple[Cost, Cost]:
        """The denoiser of one step, and the backward pass through its graph."""
        return self._once(
            ("denoise", graph, checkpointing), self.rehearsal.denoise, self._machine, graph, checkpointing
        )

    def gradient(self, vae: nn.Module | None, checkpointing: bool) -> Cost:
        """The loss's gradient at one clean estimate: decoder and loss, forward and backward."""
        return self._once(("gradient", vae, checkpointing), self._gradient, vae, checkpointing)

    def loss(self, vae: nn.Module | None) -> Cost:
        """The loss's gradient in the images that the decoder returns."""
        with self.rehearsal.mode, torch.no_grad():
            images = self.decoder(vae)(self.rehearsal.x0)
        return self._once(("loss", images.shape), self._of_loss, images)

    def delivery(self) -> Cost:
        """The pipeline's own decoding at the end, with the options that its autoencoder has (slicing, tiling)."""
        return self._once(("delivery",), self._delivery)

    def twin(self, network: nn.Module) -> nn.Module:
        """A network of the caller's as a twin."""
        return twin_of(network, self.rehearsal.mode)

    def decoder(self, vae: nn.Module | None) -> Decoder:
        """The decoder of a guided run."""
        with self.rehearsal.mode:
            return Decoder(self.rehearsal.pipe, self.rehearsal.sampling.geometry, vae, self._decode)

    def _guided(self, way: Way, index: int) -> bool:
        return Timing(self._window, way.every).strength(way.method, index, self.rehearsal.sampling.steps) > 0

    def _captured(self, way: Way) -> bool:
        """Whether this machine captures the gradient, as `guide` decides it."""
        if way.capture != "auto" or way.checkpointing or not self._machine.asynchronous:
            return way.capture is True and self._machine.asynchronous
        return not self._offloaded and CapturedGradient(self._loss).reason(self.decoder(way.vae)) is None

    def _guided_in_a_row(self, way: Way) -> bool:
        """Whether a guided step follows another one, or itself."""
        steps = self.rehearsal.sampling.steps
        guided = [self._guided(way, index) for index in range(steps)]
        repeated = any(is_guided and way.method.repeats(i / steps) > 1 for i, is_guided in enumerate(guided))
        return repeated or any(first and second for first, second in pairwise(guided))

    def _denoise(self, way: Way) -> tuple[Cost, Cost]:
        through = way.method.through_denoiser
        return self.denoise(through, through and way.checkpointing)

    def _gradient(self, vae: nn.Module | None, checkpointing: bool) -> Cost:
        rehearsal, decoder = self.rehearsal, self.decoder(vae)
        decoding: list[Cost] = []  # and what is in memory while the loss is evaluated

        def respond(images: Tensor) -> tuple[Tensor, Tensor]:
            decoding.append(meter.lap())
            return images.new_zeros(len(images)), torch.zeros_like(images)

        loss, views = self.loss(vae), self._views
        with rehearsal.mode, ExitStack() as stack:
            if checkpointing:
                stack.enter_context(checkpointed(rehearsal.pipe))
            meter = stack.enter_context(Meter(self._machine))
            gradient_through(decoder, rehearsal.x0, respond, checkpointing)
        (forward,), backward = decoding, meter.cost
        return Cost(
            forward.time.then(loss.time.times(views)).then(backward.time),
            forward.flops + views * loss.flops + backward.flops,
            max(backward.peak, forward.held + loss.peak),
            backward.held,
        )

    def _of_loss(self, images: Tensor) -> Cost:
        views = Views(self._loss)
        frames = max(1, len(images) // len(self.rehearsal.x0))  # of a video
        views.images_per_reference = self._images_per_reference * frames
        with self.rehearsal.mode, Meter(self._machine) as meter, tables_at_hand(), ExitStack() as stack:
            if self._machine.fused_latency is not None:
                stack.enter_context(kernels.on_shapes(meter.fused))
            try:
                views.gradient(images, 0)
            except (ValueError, TypeError):
                raise  # these messages are clear as they are
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
                decoder = Decoder(rehearsal.pipe, rehearsal.sampling.geometry)
                with torch.no_grad(), Meter(self._machine) as meter:
                    decoder(rehearsal.x0)
        except ValueError:  # latents that only the pipeline can decode; its cost is unknown
            return Cost()
        return meter.cost

    def _additional(self, vae: nn.Module | None) -> list[nn.Module]:
        """Networks that decode for the guidance and are not in memory without it."""
        networks = self.decoder(vae).networks
        return [network for network in networks if network not in self.rehearsal.originals or not self._stays(network)]

    def _stays(self, twin: nn.Module) -> bool:
        """Whether a network of the pipeline is in the device's memory during a step."""
        return not self._offloaded or twin in self.rehearsal.asked

    @property
    def _offloaded(self) -> bool:
        originals = self.rehearsal.originals.values()
        return any(hasattr(part, "_hf_hook") for original in originals for part in original.modules())

    def _once(self, key: tuple[Any, ...], function: Callable[..., Any], *arguments: Any) -> Any:
        if key not in self._counted:
            self._counted[key] = function(*arguments)
            self._bar.update()
        return self._counted[key]


def _on_shapes(loss: Callable[[Tensor], Tensor], mode: FakeTensorMode) -> Callable[[Tensor], Tensor]:
    """The loss in a form that runs on shapes on the CPU: a twin, or a function itself if all its tensors are there.

    Views of tensors with numbers would be counted as copies.
    """
    away = any(tensor.device.type != "cpu" for tensor in tensors_in(loss))
    return twin_of_object(loss, mode) if away or isinstance(loss, nn.Module) else loss
