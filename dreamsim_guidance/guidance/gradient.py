"""The gradient of a loss on images in the clean estimate that they were decoded from.

    grad_{x0} loss(decode(x0)),  through the decoder alone

The gradient is scaled to entries of about 1 before it passes the decoder, and back afterwards, so that it neither vanishes nor
overflows in half precision. With checkpointing, images are decoded a second time, one by one, for the backward pass: the
decoder's activations of one image are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dreamsim_guidance.guidance.step import rms
from dreamsim_guidance.pipelines.decoder import Decoder
from dreamsim_guidance.pipelines.frozen import without_gradients

__all__ = ["Gradient", "Respond", "gradient_through", "pulled_back"]

Gradient = tuple[Tensor, Tensor, Tensor]
"""Images, losses `(b,)`, and the losses' gradient in the clean estimate."""

Respond = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From images `(b, 3, h, w)` to the loss of each `(b,)` and its gradient in the images."""


def gradient_through(decoder: Decoder, x0: Tensor, respond: Respond, checkpointing: bool = False) -> Gradient:
    """The images of a clean estimate, their loss, and its gradient in the estimate.

    x0: clean estimates `(b, ...)`; a graph that they belong to is not followed.
    respond: loss and gradient of images. Frames of a video are images; their losses are averaged.
    checkpointing: save memory for time.
    Returns images `(b * frames, 3, h, w)`, losses `(b,)` and the gradient, in the estimate's shape and type.
    """
    with without_gradients(decoder.networks):
        leaf = x0.detach().requires_grad_()
        with torch.set_grad_enabled(not checkpointing):
            images = decoder(leaf)
        losses, slope = respond(images.detach())
        frames = decoder.frames

        def back(unit: Tensor) -> Tensor:
            if not checkpointing:
                return torch.autograd.grad(images, leaf, unit)[0]
            rows = [_row(decoder, leaf[i : i + 1], unit[i * frames : (i + 1) * frames]) for i in range(len(x0))]
            return torch.cat(rows)

        gradient = pulled_back(slope / frames, x0, back)
        return images.detach(), losses.view(len(x0), frames).mean(1), gradient


def pulled_back(slope: Tensor, x0: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient in the estimates of a loss whose gradient in their images is `slope`.

    slope: `(b * frames, 3, h, w)`. x0: `(b, ...)`. back: the backward pass of the decoder. It receives entries of about 1.
    """
    rows = slope.reshape(len(x0), -1)
    scale = rms(rows).clamp_min(1e-30)
    gradient = back((rows / scale).view_as(slope))
    return gradient * scale.view(-1, *[1] * (x0.ndim - 1)).to(gradient.dtype)


def _row(decoder: Decoder, x0: Tensor, unit: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        images = decoder(leaf)
    return torch.autograd.grad(images, leaf, unit)[0]
