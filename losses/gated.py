"""Losses of a diffusion model's clean estimate that count at some noise levels only.

A perceptual loss of the clean estimate x0 asks for detail. At high noise no detail can be known, and the loss would pull the
estimate away from the mean of what is possible. Its values are therefore weighted by the noise level of each sample:

    w(t) = clamp((t - start) / (full - start), 0, 1),      x_t = t x0 + (1 - t) eps

so that t rises from 0, pure noise, to 1, the clean image. With `full` = `start` the gate is a threshold, t >= start.

Ma, Xu, Zhang, PixelGen: improving pixel diffusion with perceptual supervision, arXiv 2602.02493, 2026: LPIPS and a DINO loss
of the clean estimate, at lower noise only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.loss import PairLoss
from dreamsim_guidance.types import Distance, Image

__all__ = ["Gated", "NoiseGate"]


@dataclass(frozen=True)
class NoiseGate:
    """A weight of each sample from its noise level: `gate(t)`, `(b,)` in [0, 1].

    start: t below which the weight is 0, in [0, 1].
    full: t from which it is 1, at least `start`; by default `start` itself, a threshold.

    Raises ValueError for numbers out of range.
    """

    start: float
    full: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= (self.start if self.full is None else self.full) <= 1:
            raise ValueError(f"a gate needs 0 <= start <= full <= 1, got start={self.start}, full={self.full}.")

    def __call__(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The weights of samples x_t = t x0 + (1 - t) eps, without a gradient.

        t: share of the clean image, `(b,)` in [0, 1]. For diffusers' flow matching it is 1 - sigma; for a schedule with
            x_t = a x0 + s eps it is a / (a + s), which has the same ratio of image to noise.
        """
        t = t.detach().to(torch.promote_types(t.dtype, torch.float32))
        if self.full is None or self.full == self.start:
            return (t >= self.start).to(t.dtype)
        return ((t - self.start) / (self.full - self.start)).clamp(0, 1)


class Gated:
    """A pair loss that counts by noise level; `gated.at_noise(t)` is a `PairLoss` for the samples of one batch.

        perceptual = Gated(0.1 * LPIPS(network="vgg") + 0.1 * DreamSimLoss(), NoiseGate(0.3))
        loss = MSE() + perceptual.at_noise(t)
        loss(x0, clean).mean().backward()

    loss: the pair loss, of clean estimates and clean images in [0, 1].
    gate: from t `(b,)` to weights `(b,)`; a number is the threshold of a `NoiseGate`.
    normalise: divide by the mean weight of the batch, so that `.mean()` is the mean over the samples that count; by default
        the samples do not influence each other.
    skip: evaluate the loss only for samples with a positive weight, which waits for the device once; True by default.
    """

    def __init__(
        self, loss: PairLoss, gate: NoiseGate | float = 0.3, *, normalise: bool = False, skip: bool = True
    ) -> None:
        if not isinstance(loss, PairLoss):
            raise TypeError(f"a pair loss (pred, target) -> (b,) is needed, got {type(loss).__name__}.")
        self.loss, self.normalise, self.skip = loss, normalise, skip
        self.gate = gate if isinstance(gate, NoiseGate) else NoiseGate(gate)

    def at_noise(self, t: Float[Tensor, " b"]) -> PairLoss:
        """The loss of a batch whose samples have these noise levels, `(b,)` in [0, 1]; 1 is clean."""
        if t.ndim != 1:
            raise ValueError(f"t must have one level per sample, (b,), got {tuple(t.shape)}.")
        weights = self.gate(t)
        if self.normalise:
            weights = weights / weights.mean().clamp_min(torch.finfo(weights.dtype).tiny)
        return _AtNoise(self.loss, weights, self.skip)


class _AtNoise(PairLoss):
    name = "gated"

    def __init__(self, loss: PairLoss, weights: Tensor, skip: bool) -> None:
        super().__init__()
        self.loss, self.by_sample, self.skip = loss, weights, skip

    def forward(self, pred: Image, target: Float[Tensor, "#b 3 h w"]) -> Distance:
        if len(pred) != len(self.by_sample):
            raise ValueError(f"t has {len(self.by_sample)} levels for {len(pred)} images; give one for each.")
        weights = self.by_sample.to(pred.device)
        if not self.skip:
            return weights * self.loss(pred, target)
        counted = weights.nonzero().flatten()
        # zero, with the graph of pred, so that a batch in which nothing counts has a backward pass too
        values = pred.flatten(1)[:, 0].to(weights.dtype) * 0
        if not len(counted):
            return values
        chosen = target if len(target) == 1 else target[counted]
        return values.index_add(0, counted, (weights[counted] * self.loss(pred[counted], chosen)).to(values.dtype))

    def at(self, step: int | float) -> PairLoss:
        fixed = self.loss.at(step)
        return self if fixed is self.loss else _AtNoise(fixed, self.by_sample, self.skip)
