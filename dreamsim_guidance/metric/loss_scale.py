"""A loss scale inside the metric: gradients that pass through products in float16 are brought to the middle of its range.

    forward:  the identity, at the images and at the features
    backward: g -> S g at the features, g -> g / S at the images;  S = 2^k, so that max |S g| lies in (8, 16]

float16 has no numbers below 6e-8 and none above 65504. Gradients of a distance with respect to tokens would be rounded to zero
one by one, and those of a loss with a large weight, as under a GradScaler, would overflow (Micikevicius et al., Mixed Precision
Training, ICLR 2018, section 3.2). S is a power of two, so that it rounds nothing itself, and is chosen at every backward from
the gradient that arrives, whatever the loss was multiplied by; nothing waits for the device. `torch.compile` cannot choose it,
and takes S = 1024, which fits a distance with a weight between some 2^-10 and 2^8.

Gradients of weights would keep the factor S, so it is for frozen metrics only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dreamsim_guidance.metric.vit import stream

__all__ = ["LossScale", "computes_in_float16"]

_LARGEST = 16.0
"""Of the scaled gradient at the features."""

_COMPILED = 1024.0


def computes_in_float16(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products of weights of this dtype are computed in float16 now: by themselves or under autocast."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type) == torch.float16
    return dtype == torch.float16


class LossScale:
    """The scale of one call: `images` before the towers, `features` behind them."""

    def __init__(self) -> None:
        self.factor: Tensor | float = 1.0
        self.off = False
        """Whether a gradient was computed with a graph of its own. What flows back from it later does not pass by the features,
        so from then on nothing is scaled."""

    def choose(self, gradient: Tensor) -> Tensor | float:
        """S for the gradient at the features, in float32."""
        if self.off or torch.is_grad_enabled():
            self.off, self.factor = True, 1.0
        else:
            largest = gradient.abs().amax().float()
            self.factor = torch.exp2(torch.floor(torch.log2(_LARGEST / largest)).clamp(-100, 100))
        return self.factor

    def images(self, images: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return _Fixed.apply(images, 1 / _COMPILED)  # type: ignore[no-any-return]
        return _Unscale.apply(images, self)  # type: ignore[no-any-return]

    def features(self, features: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return _Fixed.apply(features, _COMPILED)  # type: ignore[no-any-return]
        return _Scale.apply(features, self)  # type: ignore[no-any-return]


class _Identity(torch.autograd.Function):
    """The identity, whose backward is scaled by what it is given as `scale`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Any) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)


class _Fixed(_Identity):
    """For a factor that is known when the graph is compiled. `torch.compile` takes no functions with a `jvp`."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


class _IdentityOfTangents(_Identity):
    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return tangents[0].view_as(tangents[0])


class _Scale(_IdentityOfTangents):
    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (stream(gradient) * ctx.scale.choose(gradient)).to(gradient.dtype), None


class _Unscale(_IdentityOfTangents):
    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients  # of images in float16, which cannot hold every S
        return (stream(gradient) / ctx.scale.factor).to(gradient.dtype), None
