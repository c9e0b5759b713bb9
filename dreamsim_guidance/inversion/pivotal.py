"""Pivotal tuning: the weights of a generator as the leaves of `invert`, around codes that were found before.

    min_weights  loss(G(pivot; weights)) + regularise * compare(G(v; weights), G(v; weights before))
    v = pivot + t (s - pivot)

with s a new sample of the prior and t uniform in [0, 1] at each step. The second term keeps the tuning local: both images of v
are drawn with the pivot's noise, so that it measures what the weights changed and nothing else.

Roich et al., Pivotal tuning for latent-based editing of real images, ACM Transactions on Graphics 2022. There v lies at a
fixed distance from the pivot and the published code draws its images without noise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamsim_guidance.inversion.problem import Leaves
from dreamsim_guidance.loss.terms import check_values
from dreamsim_guidance.views import numbered_generator

__all__ = ["Locality", "Weights"]


class Weights:
    """The weights of a generator, of which images of fixed codes are made; neither the generator nor its network changes.

    generator: a module that maps leaves to images: `StyleGAN`, for example.
    leaves: the codes by name, `result.leaves` of an inversion through this generator, or a tensor for a generator of one leaf.
        All their images share the weights, so that the best step is that of the lowest sum of losses.
    regularise: weight of the term that keeps other images as they were; 0 for none. It needs a generator whose `init` draws
        samples.
    compare: a distance of two batches of images `(b, 3, h, w)` about in [0, 1], such as a `DreamSim`; by default the mean
        squared error.
    seed: decides the samples of that term.

    Only weights that the images depend on are leaves, named as the generator names them. `lr` is 3e-4, that of the paper.

    Raises ValueError if the images depend on no weight, and if samples are needed and the generator draws none.
    """

    shared = True
    """All samples share all leaves."""
    lr = 3e-4

    def __init__(
        self,
        generator: nn.Module,
        leaves: Tensor | Mapping[str, Tensor],
        regularise: float = 0.0,
        compare: Callable[[Tensor, Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self.generator = generator
        self.pivot = (
            leaves.detach() if isinstance(leaves, Tensor) else {name: leaf.detach() for name, leaf in leaves.items()}
        )
        self.value_range: tuple[float, float] = getattr(generator, "value_range", (0.0, 1.0))
        self.init: Leaves = self._used()
        if regularise and not callable(getattr(generator, "init", None)):
            raise ValueError(f"{type(generator).__name__} draws no samples, which regularise needs; use regularise=0.")
        self.penalty = Locality(self, regularise, compare or _mse, seed) if regularise else None

    def __call__(self, **weights: Tensor) -> Tensor:
        """The images of the pivot with these weights."""
        return self.images(self.pivot, weights)

    def images(self, leaves: Tensor | Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        """The images of any leaves with these weights."""
        arguments, named = ((leaves,), {}) if isinstance(leaves, Tensor) else ((), dict(leaves))
        return functional_call(self.generator, dict(weights), arguments, named)

    def tuned(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the generator with the weights of a result, `result.leaves`; of a `StyleGAN`, its `G` is the network."""
        generator = copy.deepcopy(self.generator)
        _write(generator, weights)
        return generator

    def apply(self, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of a result into the generator itself and so into the network that it was made from."""
        _write(self.generator, weights)

    def _used(self) -> Leaves:
        """Copies of the parameters that the pivot's images depend on."""
        named = [(name, p) for name, p in self.generator.named_parameters() if p.is_floating_point()]
        weights = {name: p.detach().clone().requires_grad_() for name, p in named}
        with torch.enable_grad():
            images = self(**weights)
            gradients: tuple[Tensor | None, ...] = ()
            if images.requires_grad:
                gradients = torch.autograd.grad(images.sum(), list(weights.values()), allow_unused=True)
        used = {name: w.detach() for (name, w), g in zip(weights.items(), gradients, strict=False) if g is not None}
        if not used:
            raise ValueError(f"the images of {type(self.generator).__name__} depend on none of its parameters.")
        return used


class Locality:
    """How much weights change the images of other samples; `at(step)` draws those of a step."""

    def __init__(
        self, weights: Weights, regularise: float, compare: Callable[[Tensor, Tensor], Tensor], seed: int
    ) -> None:
        self.weights, self.regularise, self.compare, self.seed = weights, regularise, compare, seed

    def at(self, step: int | float) -> Callable[..., Tensor]:
        """The term of a step: one sample for each pivot, compared with the images before the tuning, `(b,)`."""
        leaves = self.samples(numbered_generator(self.seed, step))
        with torch.no_grad():
            before = self._in_range(self.weights.images(leaves, self.weights.init))

        def penalty(**weights: Tensor) -> Tensor:
            images = self._in_range(self.weights.images(leaves, weights))
            return self.regularise * check_values(self.compare(images, before), images, "compare")

        return penalty

    @torch.no_grad()
    def samples(self, random: torch.Generator) -> Tensor | Leaves:
        """Leaves between each pivot and a new sample; noise is that of the pivot."""
        pivot = self.weights.pivot
        named = {"leaf": pivot} if isinstance(pivot, Tensor) else pivot
        count = len(next(iter(named.values())))
        generator = self.weights.generator
        each = getattr(generator, "batch", 1)
        # the first sample of a StyleGAN is the mean of w, each time
        drawn = generator.init(1 + count // each, random)  # type: ignore[operator]
        drawn = {"leaf": drawn} if isinstance(drawn, Tensor) else drawn
        latent = getattr(generator, "latent", None)
        mixed: Leaves = {}
        for name, leaf in named.items():
            t = torch.rand(count, *(1,) * (leaf.ndim - 1), generator=random, dtype=torch.float32).to(leaf)
            mixed[name] = leaf if latent not in (None, name) else leaf.lerp(drawn[name][each:].to(leaf), t)
        return mixed["leaf"] if isinstance(pivot, Tensor) else mixed

    def _in_range(self, images: Tensor) -> Tensor:
        low, high = self.weights.value_range
        return (images - low) / (high - low)


def _mse(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean((1, 2, 3))


@torch.no_grad()
def _write(generator: nn.Module, weights: Mapping[str, Tensor]) -> None:
    parameters = dict(generator.named_parameters())
    if missing := sorted(weights.keys() - parameters.keys()):
        raise ValueError(f"{type(generator).__name__} has no parameter '{missing[0]}'; give the leaves of a tuning.")
    for name, weight in weights.items():
        parameters[name].copy_(weight)
