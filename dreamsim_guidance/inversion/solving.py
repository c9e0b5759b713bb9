"""The solution of a sampler's steps, one after another from the clean latents on, by Anderson acceleration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.inversion.anderson import FixedPoint
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.encoder import encode
from dreamsim_guidance.pipelines.first_state import FirstState
from dreamsim_guidance.pipelines.levels import wide
from dreamsim_guidance.pipelines.reversed_loop import ReversedLoop

__all__ = ["StepSolver", "clean_latents"]


class StepSolver(ReversedLoop):
    """Inverts a pipeline's steps; see `invert_trajectory` for the arguments.

    After `run`: `states`, from the clean latents to the initial noise; `residuals`, one `(b,)` for each step in the same
    order; `evaluations` of the denoiser; `x0`, the clean latents, and `round_trip`, their image, None where no image was given.
    """

    def __init__(
        self,
        pipe: Any,
        image: Tensor | None,
        latents: Tensor | None,
        method: str,
        evaluations: int,
        tolerance: float | None,
    ) -> None:
        super().__init__(pipe, evaluations)
        self._image, self._latents, self._method, self._tolerance = image, latents, method, tolerance
        self.sampler: Any = None
        """The pipeline's own."""
        self.residuals: list[Tensor] = []
        self.evaluations = 0

    def first(self, noise: Tensor) -> Tensor:
        self.x0, self.round_trip = clean_latents(self, self._image, self._latents, noise)
        self.tolerance = 16 * torch.finfo(noise.dtype).eps if self._tolerance is None else self._tolerance
        self.states = [self.x0]
        self._begin_step()
        return self.x0

    def _begin_step(self) -> None:
        self._tried = 0
        self._solver = FixedPoint(history=5 if self._method == "anderson" else 0)

    def observe(self, x_t: Tensor, model_output: Tensor) -> tuple[Tensor, bool]:
        self.evaluations += 1
        self._tried += 1
        if self._method == "ddim":  # the last iterate is taken, whether or not it is the best
            self._solver = FixedPoint(history=0)
        steps = self.steps(x_t)
        correction = steps[self.index].correction(model_output, x_t, self.states[-1])
        following = self._solver.observe(wide(x_t), wide(correction)).to(x_t.dtype)
        if self._tried < self.repeats and not bool((self._solver.residual <= self.tolerance).all()):
            return following, False
        self.residuals.append(self._solver.residual)
        state = self._solver.best.to(x_t.dtype)
        self.states.append(state)
        self._begin_step()
        if self.index == 0 or self._method == "ddim":
            return state, True
        # the model output changes little from one step to the next, so the solution for the old output is a good start
        return state + steps[self.index - 1].correction(model_output, state, state), True


def clean_latents(
    loop: FirstState, image: Tensor | None, latents: Tensor | None, noise: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The latents from which an inversion starts, and the image that they decode to if an image was given.

    noise: the pipeline's own initial state, for its shape, dtype and device. Raises ValueError for latents of another shape
    and for values that are not finite.
    """
    round_trip = None
    if image is not None:
        decoder = Decoder(loop.pipe, loop.geometry)
        x0 = encode(decoder, image.to(noise.device), noise)
        round_trip = decoder.shown(decoder(x0))
    elif latents is not None and latents.shape == noise.shape:
        x0 = latents.detach().to(noise)
    else:
        shape = None if latents is None else tuple(latents.shape)
        raise ValueError(f"x0 must have the shape of the pipeline's latents, {tuple(noise.shape)}, got {shape}.")
    if not x0.isfinite().all():
        raise ValueError("the clean latents to be inverted are not finite.")
    return x0, round_trip
