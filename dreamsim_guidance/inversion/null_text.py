"""Null-text inversion: an unconditional embedding for each step, with which guided sampling follows an inverted trajectory.

A trajectory inverted at guidance 1 is exact, but sampling from its noise with classifier-free guidance w > 1 leaves it. From
the noisiest step on, the unconditional embedding phi of a step is optimised so that the guided step returns to it,

    phi_t = argmin || x*_prev - F(x_t, m(x_t, phi) + w (m(x_t, prompt) - m(x_t, phi))) ||^2,     x_prev = F(x_t, ... phi_t),

with a few steps of Adam that start from the embedding of the step before. The prompt is then free to change. In place of the
latents' mean squared error any loss of images can be minimised, which sees the decoded clean estimate of the step.

Mokady et al., Null-text Inversion for Editing Real Images using Guided Diffusion Models, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.denoiser_input import state_among
from dreamsim_guidance.pipelines.frozen import denoiser_of
from dreamsim_guidance.pipelines.patches import Patches
from dreamsim_guidance.pipelines.repeated_loop import RepeatedLoop
from dreamsim_guidance.pipelines.scheduler import level_of
from dreamsim_guidance.pipelines.step_call import first_of

if TYPE_CHECKING:
    from dreamsim_guidance.inversion.trajectory import Reconstruction, Trajectory

__all__ = ["NullText", "null_text"]

TEXT = "encoder_hidden_states"
"""The denoisers' argument for the embedding of the prompt, below the unconditional one in a batch of twice the size."""

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NullText:
    """Unconditional embeddings with which guided sampling reconstructs an image; edit with another prompt.

    trajectory: the inversion, whose `call` has the guidance scale.
    embeddings: `(steps, b, tokens, channels)`, noisiest step first.
    losses: what is left of the loss at each step, `(b, steps)`, and `losses_before` the same without optimisation.
    evaluations: how often the denoiser was evaluated, conditional and unconditional predictions counted separately.
    """

    trajectory: Trajectory
    embeddings: Tensor = field(repr=False)
    losses: Tensor = field(repr=False)
    losses_before: Tensor = field(repr=False)
    evaluations: int
    timesteps: tuple[float, ...] = field(repr=False)

    def reconstruct(self) -> Reconstruction:
        """Sample again with guidance, and compare with what was inverted."""
        with self._embeddings_in_place():
            return self.trajectory.reconstruct()

    def edit(self, **changes: Any) -> Tensor:
        """Sample with other arguments of the pipeline's call, such as another prompt; return images `(b, 3, h, w)` in [0, 1].

        The number of steps and the scheduler must be those of the inversion, to whose steps the embeddings belong.
        """
        with self._embeddings_in_place():
            return self.trajectory.edit(**changes)

    @contextmanager
    def _embeddings_in_place(self) -> Iterator[None]:
        table = dict(zip(self.timesteps, self.embeddings, strict=True))

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            embedding, (negative, positive) = table.get(_timestep(args, kwargs)), kwargs[TEXT].chunk(2)
            if embedding is None or embedding.shape != negative.shape:
                raise ValueError(
                    "null-text embeddings belong to the steps and the length of the prompts of their inversion; sample with "
                    "the same scheduler, number of steps and shape of embeddings."
                )
            return original(*args, **{**kwargs, TEXT: torch.cat([embedding.to(positive), positive])})

        with Patches() as patches:
            patches.replace(denoiser_of(self.trajectory.pipe), "forward", forward)
            yield


def null_text(
    trajectory: Trajectory,
    call: dict[str, Any],
    loss: Loss | None = None,
    inner_steps: int = 10,
    lr: float = 1e-2,
    stop_below: float | None = None,
) -> NullText:
    """Carry out `Trajectory.null_text`. call: the arguments of the trajectory's call with the guidance scale."""
    loop = _Optimisation(trajectory, loss, inner_steps, lr, stop_below)
    loop.run(call)
    return NullText(
        trajectory=replace(trajectory, call=call),
        embeddings=torch.stack(loop.embeddings),
        losses=torch.stack(loop.losses, dim=1),
        losses_before=torch.stack(loop.losses_before, dim=1),
        evaluations=loop.evaluations,
        timesteps=tuple(loop.timesteps),
    )


class _Optimisation(RepeatedLoop):
    """Samples with guidance, and optimises the unconditional embedding at every step before it is made."""

    def __init__(
        self, trajectory: Trajectory, loss: Loss | None, inner_steps: int, lr: float, stop_below: float | None
    ) -> None:
        super().__init__(trajectory.pipe, repeats=inner_steps + 1, gradients=True)
        self._states, self._loss, self._lr, self._stop_below = trajectory.states, loss, lr, stop_below
        self.embeddings: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.losses_before: list[Tensor] = []
        self.timesteps: list[float] = []
        self.evaluations = 0
        self._tried = 0

    def first(self, noise: Tensor) -> Tensor:
        self._decoder = Decoder(self.pipe, self.geometry)
        return self._states[0].to(noise)

    def denoise(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Both predictions of the doubled batch; the one for the prompt is the same at every evaluation of a step."""
        batch = self._states.shape[1]
        text, state = kwargs.get(TEXT), state_among(args, kwargs)
        if not isinstance(text, Tensor) or not len(text) == len(state) == 2 * batch:
            raise ValueError(
                f"{type(self.pipe).__name__} does not evaluate its network on a doubled batch of unconditional and conditional "
                f"`{TEXT}`, which null-text inversion optimises (guidance embedded in the network, as in FLUX.1, has no "
                "unconditional embedding); use Stable Diffusion 1 to 3, SDXL or another such pipeline, or invert at guidance 1."
            )
        if self._tried == 0:
            with torch.no_grad():
                self._conditional = original(*_half(args, 1, 2 * batch), **_half(kwargs, 1, 2 * batch))[0]
            start = self.embeddings[-1] if self.embeddings else text.chunk(2)[0]
            self._embedding = start.detach().clone().requires_grad_()
            rate = self._lr * (1 - self.index / (2 * (len(self._states) - 1)))
            self._adam = torch.optim.Adam([self._embedding], lr=rate)
            self.timesteps.append(_timestep(args, kwargs))
            self.evaluations += 1
        self.evaluations += 1
        result = original(*_half(args, 0, 2 * batch), **{**_half(kwargs, 0, 2 * batch), TEXT: self._embedding})
        both = torch.cat([result[0], self._conditional])
        return (both,) if isinstance(result, tuple) else type(result)(sample=both)

    def observe(self, x_t: Tensor, model_output: Tensor) -> tuple[Tensor, bool]:
        x_prev = first_of(self.ask(self.index, model_output, x_t))
        values = self._values(x_t, x_prev, model_output)
        measured = values.detach()
        if self._tried == 0:
            self.losses_before.append(measured)
            self._best = [measured, self._embedding.detach().clone(), x_prev.detach()]
            self._open = torch.ones_like(measured, dtype=torch.bool)
        better = self._open & (measured < self._best[0])
        candidates = (measured, self._embedding.detach(), x_prev.detach())
        self._best = [
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(candidates, self._best, strict=True)
        ]
        # a sample that is done keeps its embedding, so that it does not depend on the others of the batch
        self._open &= measured >= self._threshold()
        self._tried += 1
        if self._tried < self.repeats and bool(self._open.any()):
            (self._embedding.grad,) = torch.autograd.grad(values.sum(), self._embedding)
            self._adam.step()
            return x_t, False
        remaining, embedding, state = self._best
        self.losses.append(remaining)
        self.embeddings.append(embedding)
        self._tried = 0
        return state, True

    def _values(self, x_t: Tensor, x_prev: Tensor, model_output: Tensor) -> Tensor:
        if self._loss is None:
            return (x_prev - self._states[self.index + 1].to(x_prev)).square().flatten(1).mean(1)
        self.go_to(self.index)
        level = level_of(self.scheduler, self.own_timesteps()[self.index])
        values = self._loss(self._decoder(level.clean(model_output, x_t)))
        if values.shape != (len(x_t),):
            raise ValueError(f"the loss must return one value per image, ({len(x_t)},), got {tuple(values.shape)}.")
        return values

    def _threshold(self) -> float:
        if self._stop_below is not None or self._loss is not None:
            return self._stop_below or 0.0
        return 1e-5 + 1e-3 * self.index / (len(self._states) - 1)


def _timestep(args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """The timestep that a denoiser was called with."""
    timestep = args[1] if len(args) > 1 else kwargs["timestep"]
    return float(timestep.flatten()[0]) if isinstance(timestep, Tensor) else float(timestep)


def _half(value: Any, part: int, batch: int) -> Any:
    """The first (0) or second (1) half of every tensor with a batch of this size, in nested arguments."""
    if isinstance(value, Tensor):
        return value.chunk(2)[part] if value.ndim > 0 and len(value) == batch else value
    if isinstance(value, dict):
        return {key: _half(entry, part, batch) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_half(entry, part, batch) for entry in value)
    return value
