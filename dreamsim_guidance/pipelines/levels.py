"""Noise levels, and how a denoiser's output turns into a clean estimate at each.

Whatever a diffusion model predicts and however its sampler scales the state, two pairs of numbers describe one step:

    x_t = a x0 + s eps              the noisy state
    x0  = p x_t + q m               the clean estimate from the model's output m

            variance preserving      variance exploding     rectified flow
    a, s    sqrt(abar), sqrt(1-abar) 1, sigma               1 - sigma, sigma

            epsilon      v                          sample    flow
    p, q    1/a, -s/a    a/(a^2+s^2), -s/sqrt(...)  0, 1      1, -s

Salimans and Ho, Progressive Distillation, ICLR 2022 (v); Liu et al., Flow Straight and Fast, ICLR 2023 (flow).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

__all__ = ["CLEAN", "Level", "level_from", "wide"]

_SMALLEST = 1e-6
"""Lower bound of divisors: the first step of a flow starts at a = 0."""


class Level(NamedTuple):
    """The four numbers a, s, p, q of one step."""

    a: float
    s: float
    p: float
    q: float

    @property
    def relative(self) -> float:
        """The noise's share of the state's length for data of unit variance, s / sqrt(a^2 + s^2), in [0, 1]."""
        return self.s / math.hypot(self.a, self.s)

    @property
    def signal(self) -> float:
        """a, bounded away from zero, as a divisor."""
        return max(self.a, _SMALLEST)

    def clean(self, model_output: Tensor, x_t: Tensor) -> Tensor:
        """The clean estimate x0, in at least float32."""
        return self.p * wide(x_t) + self.q * wide(model_output)

    def noise(self, x0: Tensor, x_t: Tensor) -> Tensor:
        """The noise eps with x_t = a x0 + s eps."""
        return (wide(x_t) - self.a * x0) / max(self.s, _SMALLEST)

    def state(self, x0: Tensor, noise: Tensor) -> Tensor:
        """The noisy state of a clean image and a noise."""
        return self.a * x0 + self.s * noise

    def model_output(self, x0: Tensor, x_t: Tensor) -> Tensor:
        """The model output that gives this clean estimate; the inverse of `clean`."""
        if self.q == 0:  # without noise every output gives the same image
            return x0 * 0
        return (x0 - self.p * wide(x_t)) / self.q


CLEAN = Level(1.0, 0.0, 1.0, 0.0)
"""The level at which sampling ends."""


def level_from(a: float, s: float, prediction: str) -> Level:
    """The level of a model that predicts `epsilon`, `v_prediction`, `sample` or `flow_prediction`.

    Raises `ValueError` for any other prediction.
    """
    length = math.hypot(a, s)
    signal = max(a, _SMALLEST)
    pairs = {
        "epsilon": (1 / signal, -s / signal),
        "v_prediction": (a / length**2, -s / length),
        "sample": (0.0, 1.0),
        "flow_prediction": (1.0, -s),
    }
    if prediction not in pairs:
        raise ValueError(f"unknown prediction type '{prediction}'; known: {', '.join(pairs)}.")
    return Level(a, s, *pairs[prediction])


def wide(x: Tensor) -> Tensor:
    """The tensor in at least float32; float64 stays float64."""
    return x.float() if x.dtype.itemsize < 4 else x
