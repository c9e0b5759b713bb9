"""Energies with closed-form posteriors, and how far samples are from such a posterior.

The posterior of a prior p and an energy E is p(x0) exp(-E(x0)). For a Gaussian component N(mu, C) of weight w:

    E = b.x                        N(mu - C b, C),   weight  w exp(-b.mu + b.C b / 2)
    E = |A x - y|^2 / (2 sigma^2)  N(mu + G (y - A mu), C - G A C),   weight  w N(y; A mu, R),
                                   R = A C A^T + sigma^2 I,   G = C A^T R^-1

A loss for `guide` is the energy per element of the state, so that a method's strength 1 aims at the posterior.
The distance of Gaussians is that of Bures and Wasserstein, the root of `gaussian_frechet_distance`.

Bishop, Pattern Recognition and Machine Learning, 2006, section 2.3 (Gaussian posteriors).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.evaluation.samples.frechet import gaussian_frechet_distance
from dreamsim_guidance.known_answers.gaussian_mixture import GaussianMixture

__all__ = [
    "Energy",
    "Errors",
    "LinearEnergy",
    "QuadraticEnergy",
    "errors",
    "image_loss",
    "sampling_floor",
    "wasserstein",
]


@runtime_checkable
class Energy(Protocol):
    """An energy in nats, with its closed-form posterior for Gaussian mixtures."""

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]: ...

    def posterior(self, prior: GaussianMixture) -> GaussianMixture: ...

    def scaled(self, strength: float | int) -> Energy: ...


@dataclass(frozen=True)
class LinearEnergy:
    """E = b.x for a vector `b`: it tilts the prior exponentially."""

    b: Float[Tensor, " d"]

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return x @ self.b.to(x)

    def posterior(self, prior: GaussianMixture) -> GaussianMixture:
        b = self.b.to(prior.means)
        shift = prior.covariances @ b
        logits = prior.weights.log() - prior.means @ b + (shift @ b) / 2
        return GaussianMixture(logits.softmax(0), prior.means - shift, prior.covariances)

    def scaled(self, strength: float | int) -> LinearEnergy:
        """The energy times `strength`."""
        return LinearEnergy(strength * self.b)


@dataclass(frozen=True)
class QuadraticEnergy:
    """E = |A x - y|^2 / (2 sigma^2): `y` is a linear observation with white noise.

    A: `(m, d)`. y: `(m,)`. sigma: standard deviation of the noise, above 0; ValueError otherwise.
    """

    A: Float[Tensor, "m d"]
    y: Float[Tensor, " m"]
    sigma: float | int

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be a number above 0, got {self.sigma}.")

    def __call__(self, x: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        return (x @ self.A.to(x).mT - self.y.to(x)).square().sum(1) / (2 * self.sigma**2)

    def posterior(self, prior: GaussianMixture) -> GaussianMixture:
        A, y = self.A.to(prior.means), self.y.to(prior.means)
        noise = self.sigma**2 * torch.eye(len(y)).to(A)
        predicted = A @ prior.covariances @ A.mT + noise  # the covariance R of y under each component
        gain = torch.linalg.solve(predicted, A @ prior.covariances).mT
        residual = y - prior.means @ A.mT
        # Joseph's form, (I - G A) C (I - G A)^T + sigma^2 G G^T: stays positive definite
        unobserved = torch.eye(prior.dimension).to(A) - gain @ A
        covariances = unobserved @ prior.covariances @ unobserved.mT + gain @ noise @ gain.mT
        evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), predicted).log_prob(residual)
        logits = prior.weights.log() + evidence
        means = prior.means + torch.einsum("kij,kj->ki", gain, residual)
        return GaussianMixture(logits.softmax(0), means, (covariances + covariances.mT) / 2)

    def scaled(self, strength: float | int) -> QuadraticEnergy:
        """The energy times `strength`."""
        return QuadraticEnergy(self.A, self.y, self.sigma / math.sqrt(strength))


def image_loss(energy: Energy, images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The energy per element of images in [0, 1] that were decoded from states in [-1, 1]: the loss to give to `guide`."""
    return energy((images * 2 - 1).flatten(1)) / images[0].numel()


@dataclass(frozen=True)
class Errors:
    """How far samples are from a mixture.

    mean: root mean square error of the mean's entries.
    covariance: Frobenius norm of the covariance's error, relative to that of the covariance.
    wasserstein: distance of two Gaussians, one with the samples' mean and covariance, one with the mixture's; in the unit of
        the samples.
    weights: the largest error of a component's weight, 0 for a single component; samples are assigned to the components
        by their responsibilities.
    """

    mean: float
    covariance: float
    wasserstein: float
    weights: float


def errors(samples: Float[Tensor, "n d"], truth: GaussianMixture) -> Errors:
    """The errors of samples, all infinite if a sample is not finite. Raises ValueError for fewer than two samples."""
    if len(samples) < 2:
        raise ValueError(f"two or more samples are needed, got {len(samples)}.")
    if not bool(samples.isfinite().all()):
        return Errors(math.inf, math.inf, math.inf, math.inf)
    samples = samples.detach().double().cpu()
    mean, covariance = samples.mean(0), torch.cov(samples.mT)
    weights = truth.responsibilities(samples).mean(0)
    return Errors(
        mean=float((mean - truth.mean()).square().mean().sqrt()),
        covariance=float((covariance - truth.covariance()).norm() / truth.covariance().norm()),
        wasserstein=wasserstein(mean, covariance, truth.mean(), truth.covariance()),
        weights=float((weights - truth.weights).abs().max()),
    )


def sampling_floor(truth: GaussianMixture, count: int, repeats: int = 20, seed: int = 0) -> Errors:
    """The mean errors of `count` exact samples, over `repeats` draws: a sampler with smaller errors cannot be told from the
    truth."""
    generator = torch.Generator().manual_seed(seed)
    draws = [errors(truth.sample(count, generator), truth) for _ in range(repeats)]
    return Errors(
        **{field.name: sum(getattr(draw, field.name) for draw in draws) / repeats for field in fields(Errors)}
    )


def wasserstein(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """The 2-Wasserstein distance of two Gaussians with means `(d,)` and covariances `(d, d)`, in the unit of the means."""
    return math.sqrt(gaussian_frechet_distance(mean, covariance, other_mean, other_covariance))
