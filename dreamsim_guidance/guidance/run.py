"""One guided run: which steps are guided, the gradient of the loss, and the log."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.guidance.log import Entry, Log
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.guidance.step import Step, rms
from dreamsim_guidance.guidance.views import Views
from dreamsim_guidance.pipelines import caller
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.frozen import without_gradients
from dreamsim_guidance.pipelines.noise import Generators, beside
from dreamsim_guidance.pipelines.step_call import StepCall

__all__ = ["SAVINGS", "Run"]

SAVINGS = (
    "What helps, cheapest first: vae=AutoencoderTiny.from_pretrained('madebyollin/taesd') (taesdxl, taesd3, taef1), "
    "checkpointing=True, fewer images at once, MPGD() instead of a method through the denoiser; plan(pipe, ...) tells what "
    "each would need."
)


@dataclass
class Run:
    """What `guide` does inside a pipeline's loop; the arguments are `guide`'s."""

    pipe: Any
    loss: Views
    method: Method
    window: tuple[int | float, int | float]
    every: int
    schedule: Callable[[float], int | float] | None
    until: int | float | None
    vae: nn.Module | None
    decode: Callable[[Tensor], Tensor] | None
    judges: Mapping[str, Callable[[Tensor], Tensor]]
    checkpointing: bool
    images_per_reference: int | None
    callback: Callable[[Entry, Tensor], None] | None
    log: Log
    interception: Any = None
    decoder: Decoder | None = None
    total: int = 0
    _index: int = 0
    _skipped: int = 0
    _images: Tensor | None = None
    _distance: Tensor | None = None
    _reached: Tensor | None = None
    _generator: Generators = None

    # What the interception asks and tells.

    def wants_graph(self, index: int, progress: float) -> bool:
        """Whether this step is guided through the denoiser."""
        return self.method.through_denoiser and self._guided(index, progress)

    def repeats(self, index: int, progress: float) -> int:
        """How often the method makes this step; once where it is not guided."""
        return self.method.repeats(progress) if self._guided(index, progress) else 1

    def begin(self, total: int) -> None:
        """A new call of the pipeline."""
        self.log.entries.clear()
        self.log.final.clear()
        self.total, self._index, self._reached, self._generator = total, 0, None, None
        interception = self.interception
        self.decoder = Decoder(self.pipe, interception.geometry, self.vae, self.decode)
        self.loss.images_per_reference = self.images_per_reference or interception.images_per_prompt

    def step(self, call: StepCall, index: int, progress: float) -> Tensor:
        """Let the method make this step, or the scheduler alone."""
        x_prev = self._make(call, index, progress) if self._in_window(index, progress) else call.advance()[0]
        if index + 1 == self.total and self.decoder is not None and self.decoder.own is None:
            with torch.no_grad():
                self._finish(self.decoder(x_prev.detach()))  # no autoencoder will tell us
        return x_prev

    def _make(self, call: StepCall, index: int, progress: float) -> Tensor:
        began = time.perf_counter()
        self._index, self._distance, self._images, self._skipped = index, None, None, 0
        strength = self._factor(progress)
        through = strength > 0 and self.method.through_denoiser
        if through and not call.model_output.requires_grad:
            raise RuntimeError(
                f"{type(self.method).__name__} needs the gradient through the denoiser, and no graph came out of "
                f"{type(self.pipe).__name__}: its loop runs under a no_grad that cannot be switched off from here. "
                "Use a method without it, e.g. MPGD()."
            )
        with torch.set_grad_enabled(through):
            x0 = call.clean()
        guided = strength > 0 and not (self._reached is not None and bool(self._reached.all()))
        if self._generator is None:
            self._generator = beside(call.generator)
        step = Step(
            call.x_t,
            x0,
            call.level,
            progress,
            self._generator,
            self.evaluate,
            call.advance,
            lambda x0, gradient: self._finite(call.pull_back(x0, gradient)),
            call.separate,
        )
        if guided:
            with torch.no_grad():
                x_prev = replace(self.method, strength=strength)(step)
            if self._images is None:  # a method that asked for no gradient
                self._look(x0.detach())
        else:  # the distance is told, the step is the scheduler's own
            self._look(x0.detach())
            x_prev = call.advance()[0]
        self._write(step, call, index, time.perf_counter() - began, guided)
        return x_prev

    def images(self, decoded: Tensor, images: Tensor, results: list[Tensor], offset: int) -> None:
        """The pipeline's own images: check the decoder against them, and judge them."""
        if self.decoder is None:
            return
        try:
            self.decoder.check(decoded, results, offset)
        except RuntimeError as error:
            if caller.argument_of_call(self.pipe, "callback_on_step_end", "callback") is None:
                raise
            warnings.warn(
                f"unless the pipeline's own callback has changed the last latents, {error}", UserWarning, stacklevel=2
            )
        if images.ndim == 5:
            images = images.transpose(1, 2).flatten(0, 1)
        if len(images) == self.decoder.frames * len(results[0]):  # decoded in one piece
            self._finish(images)

    # The gradient.

    def evaluate(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Distance `(b,)` of a clean estimate's images, and its gradient in the estimate, in the estimate's type."""
        assert self.decoder is not None  # begin() has made it
        try:
            with without_gradients(self.decoder.networks):
                distance, gradient = self._with_gradient(x0, self.decoder)
        except torch.OutOfMemoryError as error:
            raise torch.OutOfMemoryError(f"{error} This happened in the guidance's gradient. {SAVINGS}") from error
        finite = distance.isfinite() & gradient.flatten(1).isfinite().all(1)
        self._skipped += int((~finite).sum())
        if self.until is not None:
            reached = self._clean_distance(distance) <= self.until
            self._reached = reached if self._reached is None else self._reached | reached
            finite = finite & ~self._reached
        keep = finite.view(-1, *[1] * (x0.ndim - 1))
        return distance, torch.where(keep, gradient, 0.0)

    def _finite(self, gradient: Tensor) -> Tensor:
        """Zero, and counted, where the denoiser has made it something else than numbers."""
        finite = gradient.flatten(1).isfinite().all(1)
        self._skipped += int((~finite).sum())
        return torch.where(finite.view(-1, *[1] * (gradient.ndim - 1)), gradient, 0.0)

    def _with_gradient(self, x0: Tensor, decoder: Decoder) -> tuple[Tensor, Tensor]:
        leaf = x0.detach().requires_grad_()  # the caller's graph ends here
        with torch.set_grad_enabled(not self.checkpointing):
            images = decoder(leaf)
        frames = decoder.frames
        distance, slope = self.loss.gradient(images.detach(), self._index)
        if self._images is None or self._distance is None:
            self._images, self._distance = images.detach(), distance.view(len(x0), frames).mean(1)
        slope = slope / frames
        distance = distance.view(len(x0), frames).mean(1)
        # half precision: what passes the decoder has entries of about 1, the scale comes back after
        scale = rms(slope.reshape(len(x0), -1)).clamp_min(1e-30)
        unit = (slope.reshape(len(x0), -1) / scale).view_as(images)
        if self.checkpointing:
            parts = [self._one(leaf[i : i + 1], unit[i * frames : (i + 1) * frames], decoder) for i in range(len(x0))]
            gradient = torch.cat(parts)
        else:
            (gradient,) = torch.autograd.grad(images, leaf, unit)
        return distance, gradient * scale.view(-1, *[1] * (x0.ndim - 1)).to(gradient.dtype)

    def _one(self, x0: Tensor, unit: Tensor, decoder: Decoder) -> Tensor:
        """The gradient of one image, its decoder's activations alone in memory."""
        with torch.enable_grad():
            leaf = x0.detach().requires_grad_()
            images = decoder(leaf)
        return torch.autograd.grad(images, leaf, unit)[0]

    def _clean_distance(self, distance: Tensor) -> Tensor:
        """The distance without augmentation."""
        if not self.loss.augmented or self._images is None or self.decoder is None:
            return distance
        with torch.no_grad():
            return self.loss(self.decoder.shown(self._images), self._index).view(len(distance), -1).mean(1)

    def _look(self, x0: Tensor) -> None:
        assert self.decoder is not None  # begin() has made it
        with torch.no_grad():
            self._images = self.decoder.shown(self.decoder(x0))
            self._distance = self.loss(self._images, self._index).view(len(x0), -1).mean(1)

    # Which steps.

    def _in_window(self, index: int, progress: float) -> bool:
        first, last = self.window
        if not first <= progress < last:
            return False
        total = round(index / progress) if index else 1
        return (index - math.ceil(first * total - 1e-9)) % self.every == 0

    def _factor(self, progress: float) -> float:
        """The method's strength at this share of the run."""
        factor = 1.0 if self.schedule is None else self.schedule(progress)
        try:
            right = math.isfinite(factor) and factor >= 0
        except TypeError:
            right = False
        if not right:
            raise ValueError(f"schedule must return finite factors >= 0, got {factor} at {progress:.2f} of the run.")
        return self.method.strength * float(factor)

    def _guided(self, index: int, progress: float) -> bool:
        return self._in_window(index, progress) and self._factor(progress) > 0

    # The log.

    def _write(self, step: Step, call: StepCall, index: int, seconds: float, guided: bool) -> None:
        assert self._images is not None and self._distance is not None  # every step in the window has looked
        zeros = [0.0] * len(self._distance)
        move = None if step.move is None else (rms(step.move) / max(step.level.relative, 1e-6)).flatten().tolist()
        length = None if step.gradient_length is None else step.gradient_length.tolist()
        judged = {} if self.log.entries else self._judged(self._images)
        entry = Entry(
            index=index,
            timestep=float(call.timestep),
            noise=step.level.relative,
            guided=guided,
            distance=self._distance.tolist(),
            gradient_norm=length or zeros,
            move=move or zeros,
            skipped=self._skipped,
            seconds=seconds,
            judges=judged,
        )
        self.log.entries.append(entry)
        bar = self.interception.bar
        if hasattr(bar, "set_postfix"):
            bar.set_postfix(distance=f"{sum(entry.distance) / len(entry.distance):.4f}", refresh=False)
        if self.callback is not None:
            assert self.decoder is not None  # begin() has made it
            self.callback(entry, self.decoder.shown(self._images))

    def _finish(self, images: Tensor) -> None:
        with torch.no_grad():
            assert self.decoder is not None  # the caller has looked
            images = self.decoder.shown(images)
            shape = (-1, self.decoder.frames)
            self.log.final["distance"] = self.loss(images, self._index).view(shape).mean(1).tolist()
            self.log.final.update(self._judged(images))

    def _judged(self, images: Tensor) -> dict[str, list[float]]:
        assert self.decoder is not None  # begin() has made it
        shape = (-1, self.decoder.frames)
        told = {}
        with torch.no_grad():
            images = self.decoder.shown(images)
            for name, judge in self.judges.items():
                values = judge(images)
                if not isinstance(values, Tensor) or values.shape != (len(images),):
                    got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                    raise ValueError(
                        f"the judge '{name}' must return one value per image, ({len(images)},), got {got}."
                    )
                told[name] = values.view(shape).mean(1).tolist()
        return told
