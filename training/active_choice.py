"""Which triplets to ask people about next, so that few votes teach a metric much.

A metric is tuned by weights w on directions of its embedding space. With x_j the difference of the two squared distances to the
reference along direction j,

    x_j = (r_j - b_j)^2 - (r_j - a_j)^2,        P(a person finds a nearer than b) = 1 / (1 + exp(-w . x)),

a Bradley-Terry model of the two distances. All weights equal give the untuned metric. They have a Gaussian prior around that;
the votes so far give a posterior, Gaussian by Laplace's approximation. The choices:

information     the triplet whose answer is expected to tell most about w, H(E p) - E H(p) over the posterior. Several are
                chosen one after the other, each as if those before it had been answered
disagreement    the triplets on whose answer an ensemble of heads disagrees most, the same expression over the ensemble. Each
                head is fitted to a bootstrap sample of the votes, around a prior mean of its own
margin          the triplets whose two candidates are about equally far though they differ: of the half with the smallest
                |w . x|, those with the largest |x|. The smallest |w . x| alone belong to candidates that hardly differ, about
                which people are divided as well, so that their answers say little about w
random          any

MacKay, Information-based objective functions for active data selection, Neural Computation 1992; Houlsby et al., Bayesian
active learning for classification and preference learning, 2011; Seung et al., Query by committee, COLT 1992; Osband et al.,
Randomized prior functions for deep reinforcement learning, NeurIPS 2018 (a prior mean for each head).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, expit

__all__ = ["CHOICES", "Choice", "Head", "choose_next", "directions", "fit_head", "triplet_features", "untuned_scale"]

Array = NDArray[np.float64]
Choice = Literal["information", "disagreement", "margin", "random"]
CHOICES: tuple[Choice, ...] = get_args(Choice)

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
_SPREAD = 1.0
"""Standard deviation of a weight before any vote, relative to the untuned weight."""
_TYPICAL = 1.5
"""Log odds of an answer at the pool's mean gap, which the untuned weights state before any vote: 82 of 100 people agree."""
_ITERATIONS = 50


def directions(embeddings: ArrayLike, count: int = 64) -> Array:
    """Return an orthogonal basis `(d, min(count, d))` of the principal directions of embeddings `(n, d)`."""
    x = np.asarray(embeddings, dtype=np.float64)
    _, _, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return basis[:count].T


def triplet_features(embeddings: ArrayLike, basis: Array) -> Array:
    """Return x of triplets, `(n, k + 1)`.

    embeddings: unit vectors of the reference, of a and of b, `(n, 3, d)`.
    basis: k directions, `(d, k)`; the last feature is the sum over what they leave out.
    """
    e = np.asarray(embeddings, dtype=np.float64)
    if e.ndim != 3 or e.shape[1] != 3 or e.shape[2] != basis.shape[0]:
        raise ValueError(f"embeddings of triplets must have the shape (n, 3, {basis.shape[0]}), got {e.shape}.")
    to_a, to_b = e[:, 0] - e[:, 1], e[:, 0] - e[:, 2]
    along = np.square(to_b @ basis) - np.square(to_a @ basis)
    rest = np.square(to_b).sum(1) - np.square(to_a).sum(1) - along.sum(1)
    return np.column_stack([along, rest])


@dataclass(frozen=True)
class Head:
    """Weights of the directions after some votes: their mean `(k,)` and covariance `(k, k)`."""

    mean: Array
    covariance: Array

    def log_odds(self, x: Array) -> Array:
        """Return w . x at the mean weights, `(n,)`; positive where a is nearer."""
        return x @ self.mean


def fit_head(
    x: Array, votes_a: ArrayLike, votes_b: ArrayLike, scale: float | None = None, prior_mean: Array | None = None
) -> Head:
    """Return the posterior of the weights after votes.

    x: features of all triplets of the pool, `(n, k)`, of which some have votes.
    votes_a, votes_b: votes for a and for b, `(n,)`; zeros where nobody was asked.
    scale: of the untuned weights; by default such that 82 of 100 people agree with the untuned metric at its mean gap.
    prior_mean: of the weights, `(k,)`; by default `scale` for all of them.

    Raises ValueError for arrays of different lengths, negative votes, and features that are all zero.
    """
    a, b = np.asarray(votes_a, dtype=np.float64), np.asarray(votes_b, dtype=np.float64)
    _check_votes(x, a, b)
    scale = untuned_scale(x) if scale is None else scale
    mean = np.full(x.shape[1], scale) if prior_mean is None else prior_mean
    precision = 1 / (_SPREAD * scale) ** 2
    asked = (a + b) > 0
    x, a, n = x[asked], a[asked], (a + b)[asked]

    def loss(w: Array) -> float:
        z = x @ w
        return float((n * np.logaddexp(0, z) - a * z).sum() + 0.5 * precision * np.square(w - mean).sum())

    w, best = mean.copy(), loss(mean)
    for _ in range(_ITERATIONS):  # Newton's method with step halving; the loss is convex
        p = expit(x @ w)
        gradient = x.T @ (n * p - a) + precision * (w - mean)
        hessian = (x * (n * p * (1 - p))[:, None]).T @ x + precision * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (value := loss(w - size * step)) > best and size > 1e-6:
            size /= 2
        w, best = w - size * step, value
        if np.abs(size * step).max() < 1e-6 * scale:
            break
    p = expit(x @ w)
    return Head(w, np.linalg.inv((x * (n * p * (1 - p))[:, None]).T @ x + precision * np.eye(len(w))))


def _check_votes(x: Array, a: Array, b: Array) -> None:
    if a.shape != (len(x),) or b.shape != (len(x),):
        raise ValueError(f"votes must have the shape ({len(x)},), got {a.shape} and {b.shape}.")
    if not (np.isfinite(x).all() and (a >= 0).all() and (b >= 0).all() and np.isfinite(a + b).all()):
        raise ValueError("features and votes must be finite, and votes at least 0.")


def untuned_scale(x: Array) -> float:
    """Return the weight, the same for all directions, at which the log odds at the mean gap are `_TYPICAL`."""
    gap = float(np.abs(x.sum(1)).mean())
    if not gap > 0:
        raise ValueError(
            "the metric finds both candidates of every triplet equally far, so there is nothing to choose by."
        )
    return _TYPICAL / gap


def choose_next(
    x: Array,
    votes_a: ArrayLike,
    votes_b: ArrayLike,
    count: int,
    choice: str = "information",
    *,
    again: bool = False,
    members: int = 8,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the positions of the triplets to ask about next, the most useful first.

    x: features of the pool, `(n, k)`, see `triplet_features`.
    votes_a, votes_b: votes so far, `(n,)`.
    count: how many to choose; fewer are returned if there are no more.
    choice: one of `CHOICES`, see the top of this file; "information" by default.
    again: whether triplets with votes may be chosen again; by default only those without any.
    members: heads of the ensemble for "disagreement".
    seed: of "random", of the ensemble, and of ties.

    Raises the errors of `fit_head`, and ValueError for an unknown choice and a count below 1.
    """
    if choice not in CHOICES:
        raise ValueError(f"unknown choice '{choice}'; known: {', '.join(CHOICES)}.")
    if count < 1 or members < 2:
        raise ValueError(f"count must be at least 1 and members at least 2, got {count} and {members}.")
    a, b = np.asarray(votes_a, dtype=np.float64), np.asarray(votes_b, dtype=np.float64)
    _check_votes(x, a, b)
    random = np.random.default_rng([seed, 7])
    shuffled = random.permutation(len(x))  # so that ties are broken at random
    free = shuffled[again | ((a + b)[shuffled] == 0)]
    count = min(count, len(free))
    if choice == "random":
        return free[:count]
    if choice == "disagreement":
        chances = expit(x[free] @ np.stack(_ensemble(x, a, b, members, random), axis=1))
        return free[np.argsort(-_information(chances, np.full(members, 1 / members)), kind="stable")[:count]]
    head = fit_head(x, a, b)
    if choice == "margin":
        margin = np.abs(head.log_odds(x[free]))
        return free[np.lexsort((-np.linalg.norm(x[free], axis=1), margin > np.median(margin)))[:count]]
    return free[_most_informative(head, x[free], count)]


def _ensemble(x: Array, a: Array, b: Array, members: int, random: np.random.Generator) -> list[Array]:
    """Weights of heads, each fitted to votes drawn with replacement, around a prior mean of its own."""
    scale = untuned_scale(x)
    weights = []
    for _ in range(members):
        prior_mean = np.asarray(scale * (1 + _SPREAD * random.standard_normal(x.shape[1])))
        weights.append(fit_head(x, random.poisson(a), random.poisson(b), scale, prior_mean).mean)
    return weights


def _most_informative(head: Head, x: Array, count: int) -> list[int]:
    """Positions in `x`, chosen one after the other, each as if the answers to those before it were known."""
    mean, covariance = head.log_odds(x), head.covariance.copy()
    variance = np.einsum("nk,kl,nl->n", x, covariance, x)
    chosen: list[int] = []
    for _ in range(count):
        chances = expit(mean[:, None] + np.sqrt(np.maximum(variance, 0))[:, None] * _NODES)
        gain = _information(chances, _WEIGHTS / _WEIGHTS.sum())
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        row = covariance @ x[best]
        certainty = float((chances[best] * (1 - chances[best])) @ _WEIGHTS / _WEIGHTS.sum())
        shrink = certainty / (1 + certainty * float(x[best] @ row))
        covariance -= shrink * np.outer(row, row)
        variance -= shrink * np.square(x @ row)
    return chosen


def _information(chances: Array, weights: Array) -> Array:
    """Mutual information, in nats, between an answer and the weights: chances `(n, m)` with the probabilities `(m,)`."""
    mean = chances @ weights
    return entr(mean) + entr(1 - mean) - (entr(chances) + entr(1 - chances)) @ weights
