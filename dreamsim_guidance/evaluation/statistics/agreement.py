"""Two-alternative forced choice: whether a metric finds the same candidate nearer to the reference as people do.

With n votes, k of them for b, and the metric's distances d_a and d_b, the credit of a triplet under each rule is

    fraction    k / n if d_b < d_a, 1 - k / n if d_a < d_b            (LPIPS, DreamSim; its best value is below 1)
    majority    1 if the metric sides with more than half of the votes, else 0; equal votes are left out
    unanimous   the same, on triplets without a dissenting vote        (NIGHTS; the easiest triplets)

and 1/2 under every rule if d_a = d_b. Agreement is the mean credit. The rules give very different figures for the same
metric, so a figure means little without its rule.

Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, CVPR 2018; Fu et al., DreamSim,
NeurIPS 2023.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["RULES", "Rule", "ceiling", "credits", "likenesses"]

Rule = Literal["fraction", "majority", "unanimous"]
RULES: tuple[Rule, ...] = get_args(Rule)


def credits(
    distance_a: ArrayLike, distance_b: ArrayLike, votes_a: ArrayLike, votes_b: ArrayLike, rule: Rule = "fraction"
) -> NDArray[np.float64]:
    """Return the credit of every triplet in [0, 1], `(n,)`; NaN for triplets that the rule leaves out.

    distance_a, distance_b: from the reference to a and b, `(n,)`.
    votes_a, votes_b: how many people found a, b nearer, `(n,)`; fractions of votes are allowed.
    rule: "fraction" (the default), "majority" or "unanimous".

    Raises ValueError for an unknown rule, distances that are NaN, negative votes, a triplet without a vote, and arrays of
    different length.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule '{rule}'; known: {', '.join(RULES)}.")
    d_a, d_b, n_a, n_b = _columns(distance_a=distance_a, distance_b=distance_b, votes_a=votes_a, votes_b=votes_b)
    _check_votes(n_a, n_b)
    share_b = n_b / (n_a + n_b)
    of_people = share_b if rule == "fraction" else (share_b > 0.5).astype(np.float64)
    credit = np.where(d_b < d_a, of_people, np.where(d_a < d_b, 1 - of_people, 0.5))
    if rule == "majority":
        credit[n_a == n_b] = np.nan
    elif rule == "unanimous":
        credit[np.minimum(n_a, n_b) > 0] = np.nan
    return credit


def ceiling(votes_a: ArrayLike, votes_b: ArrayLike) -> float:
    """Return an unbiased estimate of how often one person agrees with another, the human ceiling of the rule "fraction".

    It is the chance that two different votes on a triplet agree, averaged over triplets:

        mean_i (k_i (k_i - 1) + (n_i - k_i)(n_i - k_i - 1)) / (n_i (n_i - 1))

    The plug-in estimate mean(p^2 + (1 - p)^2) of vote shares p counts each vote as agreeing with itself and is too high: 0.86
    instead of 0.73 with two votes each. Triplets with fewer than two votes are left out; raises ValueError if none is left.
    """
    chances = likenesses(votes_a, votes_b)
    if np.isnan(chances).all():
        raise ValueError("the human ceiling needs triplets with at least two votes, got none.")
    return float(np.nanmean(chances))


def likenesses(votes_a: ArrayLike, votes_b: ArrayLike) -> NDArray[np.float64]:
    """Return the chance that two different votes on a triplet agree, `(n,)`; NaN with fewer than two. See `ceiling`."""
    n_a, n_b = _columns(votes_a=votes_a, votes_b=votes_b)
    _check_votes(n_a, n_b)
    n = n_a + n_b
    several = n >= 2
    pairs = np.where(several, n * (n - 1), 1.0)
    return np.where(several, (n_a * (n_a - 1) + n_b * (n_b - 1)) / pairs, np.nan)


def _columns(**columns: ArrayLike) -> list[NDArray[np.float64]]:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in shapes.values()):
        raise ValueError(f"arrays of one length, at least 1, are needed, got {shapes}.")
    if with_nan := [name for name, array in arrays.items() if np.isnan(array).any()]:
        raise ValueError(
            f"{with_nan[0]} has NaN at {int(np.isnan(arrays[with_nan[0]]).argmax())}; leave those triplets out."
        )
    return list(arrays.values())


def _check_votes(n_a: NDArray[np.float64], n_b: NDArray[np.float64]) -> None:
    invalid = (n_a < 0) | (n_b < 0) | (n_a + n_b <= 0)
    if invalid.any():
        i = int(invalid.argmax())
        raise ValueError(f"a triplet needs votes, none of them negative, got {n_a[i]:g} and {n_b[i]:g} at {i}.")
