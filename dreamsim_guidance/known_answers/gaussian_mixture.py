"""Gaussian mixtures: densities for which diffusion, guidance and their errors are known in closed form.

    p(x0)  = sum_k w_k N(mu_k, C_k)
    p(x_t) = sum_k w_k N(a mu_k, S_k),   S_k = a^2 C_k + s^2 I,   for x_t = a x0 + s eps
    eps(x_t) = -s grad log p(x_t) = s sum_k r_k S_k^-1 (x_t - a mu_k),   r_k the components' responsibilities
    x0(x_t)  = sum_k r_k (mu_k + a C_k S_k^-1 (x_t - a mu_k))

A mixture of one component is a Gaussian. Everything is computed in float64, in the eigenvectors of the covariances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Denoised", "GaussianMixture", "gaussian", "random_mixture"]


class Denoised(NamedTuple):
    """What an ideal denoiser predicts from noisy states: the mean of the clean states, and that of the noise."""

    x0: Float[Tensor, "b d"]
    noise: Float[Tensor, "b d"]


class GaussianMixture:
    """A mixture of k Gaussians in d dimensions.

    weights: `(k,)`, positive, with the sum 1.
    means: `(k, d)`.
    covariances: `(k, d, d)`, symmetric and positive definite.

    Raises ValueError if shapes do not fit together, or if weights or covariances are not as above.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = (x.detach().double() for x in (weights, means, covariances))
        k, d = self.means.shape if means.ndim == 2 else (0, 0)
        if not k or self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            raise ValueError(
                "weights (k,), means (k, d) and covariances (k, d, d) are needed, got "
                f"{tuple(weights.shape)}, {tuple(means.shape)} and {tuple(covariances.shape)}."
            )
        if not bool((self.weights > 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be positive and sum to 1, got {self.weights.tolist()}.")
        self.variances, self.axes = torch.linalg.eigh(self.covariances)
        asymmetry = float((self.covariances - self.covariances.mT).abs().max())
        if asymmetry > 1e-8 * float(self.covariances.abs().max()) or float(self.variances.min()) <= 0:
            raise ValueError("covariances must be symmetric and positive definite; add a little to their diagonals.")

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    def mean(self) -> Float[Tensor, " d"]:
        return self.weights @ self.means

    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance of the whole mixture: within the components and between them."""
        between = self.means - self.mean()
        within = (self.weights[:, None, None] * self.covariances).sum(0)
        return within + (self.weights[:, None] * between).mT @ between

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """`count` independent samples, float64."""
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        scaled = self.variances.sqrt()[component] * noise
        return self.means[component] + torch.einsum("nij,nj->ni", self.axes[component], scaled)

    def responsibilities(
        self, x: Float[Tensor, "b d"], a: float | int = 1.0, s: float | int = 0.0
    ) -> Float[Tensor, "b k"]:
        """The share of each component in the density of `a x0 + s eps` at `x`."""
        return self._joint(x.double(), a, s)[0].softmax(-1)

    def denoise(self, x_t: Float[Tensor, "b d"], a: float | int, s: float | int) -> Denoised:
        """The means of x0 and of eps, given `x_t = a x0 + s eps`; differentiable in `x_t`."""
        logits, along, spread = self._joint(x_t.double(), a, s)
        share = logits.softmax(-1)
        whitened = along / spread
        noise = s * torch.einsum("bk,kij,bkj->bi", share, self.axes, whitened)
        inner = torch.einsum("bk,kij,bkj->bi", share, self.axes, a * self.variances * whitened)
        return Denoised(share @ self.means + inner, noise)

    def to(self, device: torch.device) -> GaussianMixture:
        """The same mixture on another device."""
        moved = object.__new__(GaussianMixture)
        moved.__dict__ = {name: value.to(device) for name, value in vars(self).items()}
        return moved

    def _joint(self, x: Tensor, a: float | int, s: float | int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each component: the logarithm of its part in the density, up to one constant, `(b, k)`; the coordinates of `x`
        along its axes, `(b, k, d)`; the variances along them, `(k, d)`."""
        along = torch.einsum("kij,bki->bkj", self.axes, x[:, None] - a * self.means)
        spread = a**2 * self.variances + s**2
        squares = (along.square() / spread).sum(-1) + spread.log().sum(-1)
        return self.weights.log() - squares / 2, along, spread


def gaussian(mean: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]) -> GaussianMixture:
    """A mixture of one component."""
    return GaussianMixture(torch.ones(1), mean[None], covariance[None])


def random_mixture(
    dimension: int,
    weights: tuple[float | int, ...] = (1.0,),
    *,
    apart: float | int = 0.5,
    correlation: float | int = 0.9,
    seed: int = 0,
) -> GaussianMixture:
    """A random mixture whose components have about unit variance.

    dimension: of the space, at least 1.
    weights: of the components, positive; their sum is brought to 1.
    apart: standard deviation of the entries of the means, around 0.
    correlation: in [0, 1). The variances along random axes lie between 1 - correlation and 1 + correlation.
    seed: of means and axes.

    Raises ValueError for values out of these ranges.
    """
    if dimension < 1 or not weights:
        raise ValueError(f"a dimension and one weight or more are needed, got {dimension} and {weights}.")
    if not 0 <= correlation < 1 or apart < 0:
        raise ValueError(f"correlation must lie in [0, 1) and apart be at least 0, got {correlation} and {apart}.")
    generator = torch.Generator().manual_seed(seed)
    count = len(weights)
    means = apart * torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(count, dimension, dimension, generator=generator, dtype=torch.float64))[0]
    variances = 1 + correlation * torch.linspace(-1, 1, dimension, dtype=torch.float64).expand(count, -1)
    covariances = (axes * variances[:, None, :]) @ axes.mT
    weight = torch.tensor(weights, dtype=torch.float64)
    return GaussianMixture(weight / weight.sum(), means, (covariances + covariances.mT) / 2)
