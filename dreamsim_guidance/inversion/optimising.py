"""Minimise a loss over the parameters of a module that returns images; `invert` is the same for any callable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamsim_guidance.inversion.inverting import invert
from dreamsim_guidance.inversion.starts import parameters_of
from dreamsim_guidance.schedule import Cosine
from dreamsim_guidance.types import Distance, Image

__all__ = ["Optimised", "optimise"]


@dataclass(frozen=True)
class Optimised:
    """The result of `optimise`: for every sample its best image, the loss of that image, and the step it comes from."""

    image: Image
    loss: Distance
    best_step: Tensor
    """Whole numbers `(b,)` from 0, the start, to `steps`."""
    history: dict[str, Float[Tensor, "steps b"]]
    """Every term before its weight, and the total under "loss", at steps 0 to `steps`, on the CPU."""
    seconds: float
    """Wall-clock time of the whole optimisation."""


def optimise(
    loss: Callable[[Tensor], Tensor],
    image: nn.Module,
    steps: int = 400,
    lr: float = 0.05,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool | str = True,
) -> Optimised:
    """Minimise `loss(image())` over the parameters of `image` by Adam, whose step size decays to 0 along a cosine.

    loss: maps images `(b, 3, h, w)` in [0, 1] to one value per image, `(b,)`; the scheduled weights of a `Loss` follow
        the step.
    image: a module that returns images when it is called without arguments, such as `Pixels`; its parameters become those
        of the best step.
    steps: number of Adam's steps, at least 0.
    lr: step size at the start.
    callback: called as `callback(step, images, losses)` at every step, with detached tensors.
    progress: whether to show a bar on stderr; a string is its label.

    Nothing here is random. Raises what `invert` raises.
    """
    result = invert(
        loss,
        lambda **leaves: torch.func.functional_call(image, leaves, ()),
        parameters_of(image),
        steps,
        lr=Cosine(lr, 0.0, steps=max(steps, 1)),
        callback=callback,
        progress=progress,
    )
    with torch.no_grad():
        for name, parameter in image.named_parameters():
            if name in result.leaves:
                parameter.copy_(result.leaves[name])
    return Optimised(result.images, result.loss, result.best_step, result.history, result.seconds)
