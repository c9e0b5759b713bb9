"""The distance between two sets of pictures: the Frechet distance between Gaussians fitted to their features.

    d(a, b) = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)

The product under the root is symmetric, so that the trace of its root needs eigenvalues only, and no imaginary part has to be
dropped. The estimate is too large for few pictures, the more so the more features there are: compare only sets of equal size.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017; Dowson & Landau, The Frechet Distance
between Multivariate Normal Distributions, 1982.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["frechet_distance", "gaussian_frechet_distance"]


def frechet_distance(features_a: Float[Tensor, "n d"], features_b: Float[Tensor, "m d"]) -> float:
    """Return the distance between two sets of features, 0 for equal means and covariances; computed in float64.

    Its unit is the square of the features'.

    Raises ValueError for fewer than two pictures in a set, and for features that are not finite.
    """
    sets = []
    for features in (features_a, features_b):
        if len(features) < 2:
            raise ValueError(f"each set needs at least two pictures for a covariance, got {len(features)}.")
        if not features.isfinite().all():
            raise ValueError("features must be finite, got NaN or infinity; look for broken pictures.")
        sets.append(features.detach().to("cpu", torch.float64))
    (mean_a, covariance_a), (mean_b, covariance_b) = ((x.mean(0), torch.cov(x.T).reshape(x.shape[1], -1)) for x in sets)
    return gaussian_frechet_distance(mean_a, covariance_a, mean_b, covariance_b)


def gaussian_frechet_distance(
    mean_a: Float[Tensor, " d"],
    covariance_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    covariance_b: Float[Tensor, "d d"],
) -> float:
    """The distance of two Gaussians, the square of their 2-Wasserstein distance; 0 if they are equal.

    Computed in the dtype of the arguments, for which float64 is recommended: the terms cancel for Gaussians that are alike.
    """
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0)
    spread = covariance_a.trace() + covariance_b.trace() - 2 * product.sqrt().sum()
    return max(0.0, float((mean_a - mean_b).square().sum() + spread))
