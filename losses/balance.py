"""Weights that make one term of a training loss pull as strongly as another at a chosen layer.

    w = clamp(|grad_layer first| / (|grad_layer second| + eps), 0, largest)
    loss = first + share * w * second

At the last layer of a decoder, `share` = 1 gives both terms gradients of one length, whatever their units are.

Esser, Rombach, Ommer, Taming transformers for high-resolution image synthesis, CVPR 2021, section 3.1 (for a discriminator;
eps 1e-4 and weights up to 1e4 are those of its code).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GradientBalance"]


class GradientBalance(nn.Module):
    """The weight w of a second loss, from gradients at one layer; its state is saved and restored with `state_dict`.

        balance = GradientBalance(momentum=0.9)
        pixels, perceptual = MSE()(pred, x).mean(), DreamSimLoss()(pred, x).mean()
        loss = pixels + 0.5 * balance(pixels, perceptual, decoder.conv_out.weight) * perceptual

    momentum: share of the former average that a new weight keeps, in [0, 1); 0, the default, takes each weight as it is. The
        first weight is taken as it is.
    largest: bound of the weight, positive; 1e4 by default.
    eps: added to the second gradient's length, positive; 1e-4 by default.
    every: the weight is renewed at each such call, at least 1; 1 by default. A renewal costs one backward pass of each loss
        down to the layer.

    Where torch.distributed runs, gradients are averaged over its processes, as those of the training step are, so that all
    processes have one weight; every process must then call it.

    Raises ValueError for numbers out of range.
    """

    weight: Tensor
    calls: Tensor

    def __init__(self, momentum: float = 0.0, largest: float = 1e4, eps: float = 1e-4, every: int = 1) -> None:
        super().__init__()
        if not 0 <= momentum < 1 or not largest > 0 or not eps > 0 or every < 1:
            raise ValueError(
                "momentum must lie in [0, 1), largest and eps must be positive, every at least 1, got "
                f"{momentum}, {largest}, {eps}, {every}."
            )
        self.momentum, self.largest, self.eps, self.every = momentum, largest, eps, every
        # NaN until the first weight is known
        self.register_buffer("weight", torch.full((), torch.nan, dtype=torch.float32))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, first: Tensor, second: Tensor, layer: Tensor, loss_scale: float = 1.0) -> Tensor:
        """The weight, a number without a gradient, on the device of the losses.

        first, second: scalar losses of this step; their graphs are kept for the backward pass.
        layer: the tensor at which both gradients are compared, usually the weights of the decoder's last layer.
        loss_scale: both losses are multiplied by it before their gradients are taken, which keeps those of float16 from
            vanishing: `scaler.get_scale()`. The weight is that of the losses as they are.

        Where a loss has no graph (validation), or its gradient is not finite (a step that a scaler will leave out), the last
        weight is returned, 1 before the first. Raises ValueError for losses that are not scalar, and if the graph
        of a loss does not reach the layer.
        """
        if first.ndim or second.ndim:
            raise ValueError(
                f"both losses must be scalars, got {tuple(first.shape)} and {tuple(second.shape)}; use .mean()."
            )
        if first.requires_grad and second.requires_grad:
            if int(self.calls) % self.every == 0:
                self._renew(first, second, layer, loss_scale)
            self.calls += 1
        return self.weight.nan_to_num(nan=1.0)  # a copy, because the next step changes the buffer

    def _renew(self, first: Tensor, second: Tensor, layer: Tensor, loss_scale: float) -> None:
        norms = torch.stack([_norm(loss * loss_scale, layer) / loss_scale for loss in (first, second)])
        weight = (norms[0] / (norms[1] + self.eps)).clamp(0, self.largest)
        if not bool(norms.isfinite().all()):
            return
        self.weight.copy_(weight if bool(self.weight.isnan()) else torch.lerp(weight, self.weight, self.momentum))


def _norm(loss: Tensor, layer: Tensor) -> Tensor:
    """The length of the gradient of `loss` at `layer`, in float32, averaged over processes before it is measured."""
    (gradient,) = torch.autograd.grad(loss, layer, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the graph of a loss does not reach the layer; give a parameter that both losses depend on, of the model "
            "itself and not of a copy."
        )
    gradient = gradient.float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradient)
        gradient = gradient / torch.distributed.get_world_size()
    return gradient.norm()
