"""Two-way identification: is a reconstruction nearer to its own picture than to other pictures?

    mean over j of #{i != j : r(real_i, recon_j) < r(real_j, recon_j)} / (N - 1)

with r the correlation of features; chance is 1/2. This is the protocol for reconstructions from brain activity.

Ozcelik and VanRullen, Natural scene reconstruction from fMRI signals using generative latent diffusion, 2023.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["identification_shares", "two_way_identification"]


def two_way_identification(
    reconstructed: Float[Tensor, "n d"], real: Float[Tensor, "n d"], block: int = 1024
) -> Float[Tensor, " n"]:
    """Return, for each of n pictures, the share of the other pictures that its reconstruction is less similar to.

    In [0, 1]; ties count half. The mean over pictures is the usual figure.

    reconstructed, real: features of any embedder, flattened, `(n, d)`, in the same order.
    block: rows that are compared at a time, to bound the memory; by default 1024.

    Raises ValueError for fewer than two pictures, and for features whose shapes do not match.
    """
    if reconstructed.shape != real.shape or real.ndim != 2 or len(real) < 2:
        raise ValueError(
            f"features of at least two pictures, both (n, d), are needed, got {tuple(reconstructed.shape)} and "
            f"{tuple(real.shape)}; flatten them first."
        )
    a, b = (_standard(x.double()) for x in (reconstructed, real))
    starts = range(0, len(a), block)
    return torch.cat([identification_shares(-a[start : start + block] @ b.T, start) for start in starts])


def identification_shares(distances: Float[Tensor, "m n"], first: int = 0) -> Float[Tensor, " m"]:
    """Return, for each of m reconstructions, the share of the n - 1 other pictures that are farther from it than its own.

    `distances[i, j]` is that of reconstruction `first` + i to picture j. In [0, 1]; ties count half.
    """
    to_own = distances.diagonal(first)[:, None]
    wins = (distances > to_own).sum(1) + 0.5 * (
        (distances == to_own).sum(1) - 1
    )  # the picture itself is one of the ties
    return wins / (distances.shape[1] - 1)


def _standard(x: Tensor) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
