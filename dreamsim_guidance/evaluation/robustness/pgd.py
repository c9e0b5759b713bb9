"""Projected gradient descent: pictures near given ones whose distance to a reference is as large as possible.

    x_0     <- clip(x + start)                                         a random point of the ball
    x_(k+1) <- clip(x + project(x_k + step direction(grad d(x_k)) - x))

with direction(g) = sign(g) and project = clamp for the norm linf, direction(g) = g / |g| and project = scaling to the radius
for l2; clip keeps values in [0, 1]. Of all iterates, and x itself, the one with the largest distance is returned.

Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from dreamsim_guidance.evaluation.robustness.attack import Attack
from dreamsim_guidance.types import Distance, Image

__all__ = ["Attacked", "ascend", "pgd", "random_start"]


class Attacked(NamedTuple):
    """The outcome of an attack on b images."""

    images: Image
    """The attacked images, in [0, 1] and within the radius of the originals."""
    distance: Distance
    """Their distances, never smaller than those of the originals."""
    has_gradient: Bool[Tensor, " b"]
    """Whether the gradient at the random start had any value other than zero; without one the attack is a random search."""


def pgd(
    distance: Callable[[Image], Distance],
    images: Image,
    attack: Attack,
    seed: int = 0,
    enough: Distance | None = None,
) -> Attacked:
    """Change each image within the attack's radius so that its distance becomes as large as possible.

    distance: of a batch of images, one number for each, differentiable; for example `metric.target(reference)`.
    images: RGB `(b, 3, h, w)` in [0, 1].
    attack: norm, radius and steps.
    seed: of the random starts. The start of an image depends on the seed and on the image's own values alone, so that it is the
        same in any batch.
    enough: `(b,)`; the attack ends early once every distance exceeds its limit. By default all steps are made.

    Raises ValueError for a distance that is not one number per image, has no gradient, or whose gradient is not finite.
    """
    images = images.detach()
    with torch.no_grad():
        most, best = distance(images).detach(), images
    start = _starts(images, attack, seed)
    x, has_gradient = start, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for step in range(attack.steps):
        values, gradient = _value_and_gradient(distance, x)
        most, best = _farther(values, x, most, best)
        if step == 0:
            has_gradient = gradient.flatten(1).any(1)
        if enough is not None and bool((most > enough).all()):
            return Attacked(best, most, has_gradient)
        x = ascend(x, gradient, images, attack)
    with torch.no_grad():
        most, best = _farther(distance(x).detach(), x, most, best)
    return Attacked(best, most, has_gradient)


def random_start(images: Image, attack: Attack, generator: torch.Generator | None = None) -> Image:
    """Return a point of the ball around each image, clipped to [0, 1]; uniform in the ball for linf.

    For l2 the direction is uniform and so is the length, between 0 and the radius. (Uniformly drawn points of a ball of so many
    dimensions all lie on its surface.)

    generator: on the device of the images; by default torch's global one.
    """
    options = {"generator": generator, "device": images.device, "dtype": images.dtype}
    if attack.norm == "linf":
        change = (2 * torch.rand(images.shape, **options) - 1) * attack.radius  # type: ignore[arg-type]
    else:
        direction = torch.randn(images.shape, **options)  # type: ignore[arg-type]
        length = attack.radius * torch.rand((len(images), 1, 1, 1), **options)  # type: ignore[arg-type]
        change = direction * (length / _length(direction))
    return (images + change).clamp(0, 1)


def ascend(x: Image, gradient: Image, images: Image, attack: Attack) -> Image:
    """Return `x` after one step along the gradient, projected onto the ball around `images` and clipped to [0, 1]."""
    if attack.norm == "linf":
        change = (x + attack.step * gradient.sign() - images).clamp(-attack.radius, attack.radius)
    else:
        change = x + attack.step * gradient / _length(gradient) - images
        change = change * (attack.radius / _length(change)).clamp(max=1)
    # clipping never leaves the ball: it moves every value towards that of the image, which lies in [0, 1]
    return (images + change).clamp(0, 1)


def _starts(images: Image, attack: Attack, seed: int) -> Image:
    """`random_start` with a generator of its own for each image, on the CPU, so that the device does not matter."""
    starts = []
    for image in images.cpu():
        digest = hashlib.sha256(image.contiguous().numpy().tobytes() + seed.to_bytes(8, "little", signed=True))
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest.digest()[:7], "little"))
        starts.append(random_start(image[None], attack, generator))
    return torch.cat(starts).to(images.device)


def _value_and_gradient(distance: Callable[[Image], Distance], x: Image) -> tuple[Distance, Image]:
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        values = distance(leaf)
        if not isinstance(values, Tensor) or values.shape != (len(x),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"a distance must return one number per image, ({len(x)},), got {got}.")
        gradient = None
        if values.requires_grad:
            (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "an attack follows the gradient of the distance with respect to the images, and this distance has none: it does "
            "not depend on them, or leaves torch (detach, numpy, no_grad)."
        )
    if not bool(gradient.isfinite().all()):
        raise ValueError(
            "the gradient of the distance with respect to the images is not finite, so there is no attack."
        )
    return values.detach(), gradient


def _farther(values: Distance, x: Image, most: Distance, best: Image) -> tuple[Distance, Image]:
    """The larger distance of each image, and the image that has it."""
    better = values > most
    return torch.where(better, values, most), torch.where(better[:, None, None, None], x, best)


def _length(x: Tensor) -> Tensor:
    """Euclidean length of each image, `(b, 1, 1, 1)`, never zero."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
