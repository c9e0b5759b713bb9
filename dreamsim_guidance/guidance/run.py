"""A guided run: what `guide` asks for, and one call of the pipeline under it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.guidance.captured import CapturedGradient
from dreamsim_guidance.guidance.gradient import gradient_through
from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step, rms
from dreamsim_guidance.guidance.timing import Timing
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.host_numbers import HostCopy
from dreamsim_guidance.pipelines.noise import Generators, beside
from dreamsim_guidance.pipelines.step_call import StepCall
from dreamsim_guidance.pipelines.visitor import Sampling, Visit, Visitor

__all__ = ["SAVINGS", "Guidance", "GuidedRun"]

SAVINGS = (
    "What helps, cheapest first: capture=False where the gradient runs as a CUDA graph, "
    "vae=AutoencoderTiny.from_pretrained('madebyollin/taesd') (taesdxl, taesd3, taef1), checkpointing=True, fewer images at "
    "once, MPGD() instead of a method through the denoiser; plan(pipe, ...) predicts what each would need."
)


@dataclass(frozen=True, eq=False)
class Guidance(Visitor):
    """How a pipeline is guided; the arguments are those of `guide`. Starts a `GuidedRun` for each call of the pipeline."""

    pipe: Any
    loss: Callable[[Tensor], Tensor]
    method: Method
    timing: Timing
    until: int | float | None
    vae: nn.Module | None
    decode: Callable[[Tensor], Tensor] | None
    views: int
    augmentation: Callable[[Tensor], Tensor] | None
    judges: Mapping[str, Callable[[Tensor], Tensor]]
    checkpointing: bool
    images_per_reference: int | None
    callback: Callable[[Entry, Tensor], None] | None
    captured: CapturedGradient
    log: Log = field(default_factory=Log)

    def strength(self, index: int, total: int) -> float:
        """The method's strength in step `index` of `total`, 0 where nothing is guided."""
        return self.timing.strength(self.method, index, total)

    def wants_graph(self, index: int, total: int) -> bool:
        """Whether this step is guided through the denoiser."""
        return self.method.through_denoiser and self.strength(index, total) > 0

    def repeats(self, index: int, total: int) -> int:
        """How often the method makes this step; once where it is not guided."""
        return self.method.repeats(index / total) if self.strength(index, total) > 0 else 1

    def begin(self, sampling: Sampling) -> GuidedRun:
        """Start a new call of the pipeline; the log is emptied."""
        self.log.entries.clear()
        self.log.final.clear()
        return GuidedRun(self, sampling)


class GuidedRun(Visit):
    """One guided call of a pipeline, from its first step to its images."""

    def __init__(self, guidance: Guidance, sampling: Sampling) -> None:
        self.guidance, self.sampling = guidance, sampling
        self.decoder = Decoder(guidance.pipe, sampling.geometry, guidance.vae, guidance.decode)
        self.loss = Views(guidance.loss, guidance.views, guidance.augmentation)
        self.loss.images_per_reference = guidance.images_per_reference or sampling.images_per_prompt
        self._generator: Generators = None
        self._left = 0
        """How often the current step will be made again."""
        self._reached: Tensor | None = None
        """Samples whose target distance has been reached, `(b,)`."""
        self._all_reached: HostCopy | None = None
        """Whether all have: copied to the host after one step and read at the next, when the denoiser has been launched."""
        self._distances: list[HostCopy] = []

    def step(self, call: StepCall, index: int) -> Tensor:
        """Let the method make this step, or the scheduler alone."""
        guided = self.guidance.timing.includes(index, self.sampling.steps)
        x_prev = self._guided(call, index) if guided else call.advance()[0]
        self._left = (self._left or self.guidance.repeats(index, self.sampling.steps)) - 1
        if index + 1 == self.sampling.steps and not self._left:
            self._warn_of_broken_gradients()
            if self.decoder.own is None:  # no autoencoder of the pipeline's will be called
                with torch.no_grad():
                    self._finish(self.decoder(x_prev.detach()), index)
        return x_prev

    def images(self, decoded: Tensor, images: Tensor, results: list[Tensor], offset: int) -> None:
        """Check the decoder against the pipeline's own images, and judge these."""
        try:
            self.decoder.check(decoded, results, offset)
        except RuntimeError as error:
            if not self.sampling.own_callback:
                raise
            warnings.warn(
                f"unless the pipeline's own callback has changed the last latents, {error}", UserWarning, stacklevel=2
            )
        if images.ndim == 5:
            images = images.transpose(1, 2).flatten(0, 1)
        if len(images) == self.decoder.frames * len(results[0]):  # decoded in one piece
            self._finish(images, self.sampling.steps - 1)

    def _guided(self, call: StepCall, index: int) -> Tensor:
        """A step in the window: made by the method, or by the scheduler where strength or distance say so; logged."""
        began = time.perf_counter()
        method, strength = self.guidance.method, self.guidance.strength(index, self.sampling.steps)
        through = strength > 0 and method.through_denoiser
        if through and not call.model_output.requires_grad:
            raise RuntimeError(
                f"{type(method).__name__} needs the gradient through the denoiser, and no graph came out of "
                f"{type(self.guidance.pipe).__name__}: its loop runs under a no_grad that cannot be switched off from here. "
                "Use a method without it, e.g. MPGD()."
            )
        if self._generator is None:
            self._generator = beside(call.generator)
        look = _Look(self, index)
        with torch.set_grad_enabled(through):
            step = Step(call, look, index / self.sampling.steps, self._generator)
        active = strength > 0 and not (self._all_reached is not None and self._all_reached.tolist())
        if active:
            with torch.no_grad():
                x_prev = method.with_strength(strength)(step)
            if not step.sampled:
                raise RuntimeError("a guidance method must call step.sample(), or one of its forms, once in each step.")
        else:
            x_prev = step.sample()
        images, distance = look.first(step.x0)
        self._write(step, images, distance, call.timestep, index, time.perf_counter() - began, active)
        return x_prev

    def reached(self, distance: Tensor, images: Tensor, index: int) -> Tensor | None:
        """Which samples have reached the target distance by now, `(b,)`; once reached, always reached."""
        if self.guidance.until is None:
            return None
        if self.loss.augmented:
            distance = self.distance(self.decoder.shown(images), index)
        now = distance <= self.guidance.until
        self._reached = now if self._reached is None else self._reached | now
        self._all_reached = HostCopy(self._reached.all())
        return self._reached

    def distance(self, images: Tensor, index: int) -> Tensor:
        """The loss of images without augmentation, averaged over the frames of a video, `(b,)`."""
        with torch.no_grad():
            return self.loss(images, index).view(-1, self.decoder.frames).mean(1)

    # The log.

    def _write(
        self, step: Step, images: Tensor, distance: Tensor, timestep: float, index: int, seconds: float, guided: bool
    ) -> None:
        zeros = [0.0] * len(distance)
        move = None if step.move is None else (rms(step.move) / max(step.level.relative, 1e-6)).flatten()
        log = self.guidance.log
        values = {"distance": distance, "gradient_norm": step.gradient_length, "move": move, "skipped": step.broken}
        vectors = {name: vector for name, vector in values.items() if vector is not None}
        copies = dict(zip(vectors, HostCopy.of_several(*vectors.values()), strict=True))
        self._distances.append(copies["distance"])
        entry = Entry.on_its_way(
            index=index,
            timestep=timestep,
            noise=step.level.relative,
            guided=guided,
            distance=self._distances[-1],
            gradient_norm=copies.get("gradient_norm", zeros),
            move=copies.get("move", zeros),
            skipped=copies["skipped"].sum() if "skipped" in copies else 0,
            seconds=seconds,
            judges={} if log.entries else self._judged(images),
        )
        log.entries.append(entry)
        arrived = next((copy for copy in reversed(self._distances) if copy.arrived), None)
        if hasattr(self.sampling.bar, "set_postfix") and arrived is not None:
            values = arrived.tolist()
            self.sampling.bar.set_postfix(distance=f"{sum(values) / len(values):.4f}", refresh=False)
        if self.guidance.callback is not None:
            self.guidance.callback(entry, self.decoder.shown(images))

    def _warn_of_broken_gradients(self) -> None:
        """Warn once if half of a run's gradients or more could not be used."""
        log = self.guidance.log
        if log.skipped and log.skipped >= 0.5 * log.gradients:
            some = "no image was guided" if log.skipped == log.gradients else "these images were not guided there"
            warnings.warn(
                f"{log.skipped} of the {log.gradients} gradients of this guided run (one for each image and step) were not "
                f"finite and were left out: {some}. Causes are a loss whose value or gradient is nan or infinite (a root or a "
                "division at zero), and overflow in half precision: try the pipeline or its vae in float32 or bfloat16.",
                UserWarning,
                stacklevel=2,
            )

    def _finish(self, images: Tensor, index: int) -> None:
        """Log loss and judges of the delivered images."""
        images = self.decoder.shown(images)
        self.guidance.log.final["distance"] = self.distance(images, index).tolist()
        self.guidance.log.final.update({name: values.tolist() for name, values in self._judged(images).items()})

    def _judged(self, images: Tensor) -> dict[str, HostCopy]:
        """The judges' values of images `(b * frames, 3, h, w)`, by name, one for each sample."""
        values = {}
        with torch.no_grad():
            images = self.decoder.shown(images)
            for name, judge in self.guidance.judges.items():
                distances = judge(images)
                if not isinstance(distances, Tensor) or distances.shape != (len(images),):
                    got = tuple(distances.shape) if isinstance(distances, Tensor) else type(distances).__name__
                    raise ValueError(
                        f"the judge '{name}' must return one value per image, ({len(images)},), got {got}."
                    )
                values[name] = HostCopy(distances.view(-1, self.decoder.frames).mean(1))
        return values


class _Look:
    """The loss and its gradient in one step of a run; remembers the images of the first evaluation for the log."""

    def __init__(self, run: GuidedRun, index: int) -> None:
        self._run, self._index = run, index
        self._first: tuple[Tensor, Tensor] | None = None

    def __call__(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Distance `(b,)` and gradient at a clean estimate; the gradient is zero where the target has been reached."""
        run = self._run
        try:
            result = run.guidance.captured(run.decoder, run.loss, x0, self._index)
            if result is None:
                respond = partial(run.loss.gradient, step=self._index)
                result = gradient_through(run.decoder, x0, respond, run.guidance.checkpointing)
            images, distance, gradient = result
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"{error} This happened in the guidance's gradient. {SAVINGS}") from error
        if self._first is None:
            self._first = images, distance
        reached = run.reached(distance, images, self._index)
        if reached is not None:
            gradient = torch.where(reached.view(-1, *[1] * (x0.ndim - 1)), 0.0, gradient)
        return distance, gradient

    def first(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Images and distance of the first evaluation; those of `x0` if no gradient was asked for."""
        if self._first is None:
            with torch.no_grad():
                images = self._run.decoder.shown(self._run.decoder(x0.detach()))
            self._first = images, self._run.distance(images, self._index)
        return self._first
