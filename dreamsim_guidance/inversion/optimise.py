"""Minimise a loss over the parameters of an image, and keep the best step of every sample.

The loss of a step belongs to that step's image, and its last value is rarely its lowest, so that returning the last image
would lose quality. Samples do not interact: the sum over the batch is differentiated, Adam works elementwise, and each
sample keeps its own best step. A batch therefore gives what its samples give alone.

Kingma, Ba, Adam: a method for stochastic optimization, ICLR 2015.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from dreamsim_guidance.loss import Loss
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
    image: a module that returns images when it is called without arguments, such as `Pixels`; its parameters are changed
        in place.
    steps: number of Adam's steps, at least 0.
    lr: step size at the start.
    callback: called as `callback(step, images, losses)` at every step, with detached tensors.
    progress: whether to show a bar on stderr; a string is its label.

    Nothing here is random. Raises ValueError if there is nothing to optimise or the loss does not depend on it, and
    FloatingPointError if the loss of a sample was never finite.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}.")
    loss = loss if isinstance(loss, Loss) else Loss.of(loss, "loss")
    leaves = [leaf for leaf in image.parameters() if leaf.requires_grad]
    if not leaves:
        raise ValueError(
            f"{type(image).__name__} has no parameter that requires a gradient, so there is nothing to optimise."
        )
    optimiser = torch.optim.Adam(leaves, lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    best: _Best | None = None
    history: dict[str, list[Tensor]] = {}
    start = time.perf_counter()
    label = progress if isinstance(progress, str) else None
    bar = tqdm(range(steps + 1), desc=label, disable=not progress, unit="step")
    for step in bar:
        with torch.set_grad_enabled(step < steps):
            images = image()
            total, terms = loss.at(step).value_and_terms(images)
        detached, values = images.detach(), total.detach()
        for name, term in {**terms, "loss": values}.items():
            history.setdefault(name, []).append(term)
        best = _Best.of(detached, values) if best is None else best.updated(step, detached, values)
        if callback is not None:
            callback(step, detached, values)
        if progress and step % 10 == 0:  # reading the value waits for the device
            bar.set_postfix_str(f"loss {float(values.mean()):.4f}", refresh=False)
        if step < steps:
            _set_gradients(leaves, images, total)
            optimiser.step()
            decay.step()
    assert best is not None  # step 0 is always evaluated
    if not bool(best.loss.isfinite().all()):
        samples = (~best.loss.isfinite()).nonzero().flatten().tolist()
        raise FloatingPointError(f"the loss of samples {samples} was never finite; check its terms on the start image.")
    columns = {name: torch.stack(values).cpu() for name, values in history.items()}
    return Optimised(best.image, best.loss, best.step, columns, time.perf_counter() - start)


@dataclass(frozen=True)
class _Best:
    """The best image of every sample so far, its loss, and its step."""

    image: Tensor
    loss: Tensor
    step: Tensor

    @classmethod
    def of(cls, images: Tensor, values: Tensor) -> _Best:
        """Of step 0; a loss that is not finite counts as infinite."""
        start = cls(images.clone(), torch.full_like(values, torch.inf), torch.zeros_like(values, dtype=torch.int64))
        return start.updated(0, images, values)

    def updated(self, step: int, images: Tensor, values: Tensor) -> _Best:
        better = values < self.loss
        return _Best(
            torch.where(better[:, None, None, None], images, self.image),
            torch.where(better, values, self.loss),
            self.step.masked_fill(better, step),
        )


def _set_gradients(leaves: list[nn.Parameter], images: Tensor, total: Tensor) -> None:
    """Write the gradient of the total into the leaves.

    `backward` would also fill the gradients of a loss whose own weights are trainable.
    """
    gradients: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if total.requires_grad:
        gradients = torch.autograd.grad(total.sum(), leaves, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        if not images.requires_grad:
            raise ValueError(
                "the images do not depend on the parameters; the module must return them with their graph."
            )
        raise ValueError(
            "the loss does not depend on the images, so there is no gradient to follow; it must be computed from its "
            "argument, without detach or no_grad inside."
        )
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient
