"""Follow the gradient of a loss to an image, and keep the best step of every sample.

The loss of a step says how good that step's image is, and its last value is rarely its lowest; projectors that return
the last step give away what they had found. Samples do not interact: the sum over the batch is differentiated, Adam
works elementwise, and each sample keeps its own best step, so that a batch gives what its samples give alone.
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
    """What `optimise` found: for every sample its best image, the loss of that image, and the step it comes from."""

    image: Image
    loss: Distance
    best_step: Tensor
    history: dict[str, Float[Tensor, "steps b"]]
    """Every term before its weight and the total under "loss", at steps 0 (the start) to `steps`, on the CPU."""
    seconds: float


def optimise(
    loss: Callable[[Tensor], Tensor],
    image: nn.Module,
    steps: int = 400,
    lr: float = 0.05,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool | str = True,
) -> Optimised:
    """Minimise `loss(image())` over the parameters of `image` by Adam with a cosine decay of `lr` to 0.

    `loss` maps images `(b, 3, h, w)` to `(b,)`; scheduled weights of a `Loss` follow the step. `image` is a module that
    returns images when called without arguments, such as `Pixels`; its parameters are changed in place.
    `callback(step, images, losses)` sees every step, detached. `progress` shows a bar on stderr, a string labels it.
    Nothing here is random. Raises FloatingPointError if the loss of a sample was never finite.
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
    best_image, best, best_step = torch.empty(0), torch.empty(0), torch.empty(0)
    history: dict[str, list[Tensor]] = {}
    start = time.perf_counter()
    bar = tqdm(
        range(steps + 1), desc=progress if isinstance(progress, str) else None, disable=not progress, unit="step"
    )
    for step in bar:
        with torch.set_grad_enabled(step < steps):
            images = image()
            total, terms = loss.at(step).value_and_terms(images)
        seen, value = images.detach(), total.detach()
        for name, term in {**terms, "loss": value}.items():
            history.setdefault(name, []).append(term)
        if step == 0:
            best_image, best, best_step = (
                seen.clone(),
                torch.full_like(value, torch.inf),
                torch.zeros_like(value).long(),
            )
        better = value < best
        best = torch.where(better, value, best)
        best_image = torch.where(better[:, None, None, None], seen, best_image)
        best_step = best_step.masked_fill(better, step)
        if callback is not None:
            callback(step, seen, value)
        if progress and step % 10 == 0:  # reading the value waits for the device
            bar.set_postfix_str(f"loss {float(value.mean()):.4f}", refresh=False)
        if step < steps:
            # not backward(): that would also fill the gradients of a loss whose weights are trainable
            for leaf, gradient in zip(leaves, torch.autograd.grad(total.sum(), leaves), strict=True):
                leaf.grad = gradient
            optimiser.step()
            decay.step()
    if not bool(best.isfinite().all()):
        lost = (~best.isfinite()).nonzero().flatten().tolist()
        raise FloatingPointError(f"the loss of samples {lost} was never finite; check its terms on the start image.")
    columns = {name: torch.stack(values).cpu() for name, values in history.items()}
    return Optimised(best_image, best, best_step, columns, time.perf_counter() - start)
