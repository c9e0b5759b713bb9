"""Values of images with their gradient, from one replay, as a part of autograd."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, cast

import torch
from torch import Tensor

from dreamsim_guidance.capture.graphs import Graphs, Work
from dreamsim_guidance.capture.watch import Watch

__all__ = ["values_of"]


def values_of(
    graphs: Graphs,
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    watch: Callable[[], Watch],
    key: Hashable = (),
) -> Tensor:
    """`function(images)`, from a recording where possible, differentiable in the images.

    function: from images `(b, ...)` to one value for each, `(b,)`, which depends on its own image only.
    images: on a device that the recorder accepts. If they require a gradient, the values and their gradient are computed in one
        replay; a backward pass multiplies it. A gradient that is itself differentiated (`create_graph=True`) is computed by
        the function itself. `torch.func`, forward-mode differentiation and `torch.compile` run the function itself too.
    watch, key: as for `Graphs`.
    """
    differentiable = torch.is_grad_enabled() and images.requires_grad
    work = _gradient_of(function) if differentiable else _forward_of(function)
    results = graphs.replayed(work, (images,), watch, (key, differentiable))
    if results is None:
        return function(images)
    return cast(Tensor, _Replayed.apply(images, *results, function)) if differentiable else results[0]


def _forward_of(function: Callable[[Tensor], Tensor]) -> Work:
    def work(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(images),)

    return work


def _gradient_of(function: Callable[[Tensor], Tensor]) -> Work:
    def work(images: Tensor) -> tuple[Tensor, ...]:
        # float16 cannot hold the gradient of a value whose weight is not known yet
        leaf = images.detach().to(torch.promote_types(images.dtype, torch.float32)).requires_grad_()
        with torch.enable_grad():
            values = function(leaf)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient

    return work


class _Replayed(torch.autograd.Function):
    """Values whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradient: Tensor, function: Any) -> Tensor:
        ctx.save_for_backward(images)  # unpacked for second derivatives only
        ctx.gradient, ctx.function, ctx.dtype = gradient, function, images.dtype
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = gradients
        if torch.is_grad_enabled():
            (images,) = ctx.saved_tensors
            values = ctx.function(images)
            (slope,) = torch.autograd.grad(values, images, weights, create_graph=True)
            return slope, None, None, None
        weights = weights.view(-1, *[1] * (ctx.gradient.ndim - 1))
        return (weights * ctx.gradient).to(ctx.dtype), None, None, None
