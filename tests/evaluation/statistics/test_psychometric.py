"""The psychometric curve: the fit, the intervals of its parameters, data that do not determine it, and rounding."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dreamsim_guidance.evaluation import Curve, psychometric_curve


def simulated(
    triplets: int, slope: float = 6.0, lapse: float = 0.2, people: int = 5, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Distances in [0, 1] and votes of people who follow the model."""
    random = np.random.default_rng(seed)
    d_a, d_b = random.random((2, triplets))
    chance = 0.5 + (1 - lapse) * (1 / (1 + np.exp(-slope * (d_b - d_a))) - 0.5)
    votes_a = random.binomial(people, chance)
    return d_a, d_b, votes_a, people - votes_a


def fitted(d_a: np.ndarray, d_b: np.ndarray, votes_a: np.ndarray, votes_b: np.ndarray) -> Curve:
    return psychometric_curve(d_a, d_b, votes_a, votes_b, np.arange(len(d_a)), bins=2, resamples=2)


def log_likelihood(curve: Curve, d_a: np.ndarray, d_b: np.ndarray, votes_a: np.ndarray, votes_b: np.ndarray) -> float:
    """The mean log-likelihood of the votes under a curve, by definition."""
    p = curve(np.abs(d_a - d_b))
    agreeing = np.where(d_a < d_b, votes_a, votes_b)
    return float(
        (agreeing * np.log(p) + (votes_a + votes_b - agreeing) * np.log(1 - p)).sum() / (votes_a + votes_b).sum()
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_other_slope_and_lapse_explain_the_votes_better(seed: int) -> None:
    data = simulated(300, seed=seed)
    curve = fitted(*data)
    assert curve.log_likelihood == pytest.approx(log_likelihood(curve, *data), abs=1e-12)
    others = [
        Curve((), slope, lapse)
        for slope in curve.slope * np.exp(np.linspace(-3, 3, 41))
        for lapse in np.linspace(0.001, 0.999, 41)
    ]
    assert curve.log_likelihood >= max(log_likelihood(other, *data) for other in others)
    assert curve.log_likelihood > math.log(0.5)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    curves = [fitted(*simulated(150, seed=seed)) for seed in range(60)]
    assert all(curve.identified for curve in curves)
    for name, truth in (("slope", 6.0), ("lapse", 0.2)):
        intervals = [getattr(curve, f"{name}_interval") for curve in curves]
        assert all(low <= getattr(c, name) <= high for c, (low, high) in zip(curves, intervals, strict=True))
        covered = sum(low <= truth <= high for low, high in intervals)
        assert covered >= 52  # binomial of 60 at 95 %: 57 - 3 standard deviations of 1.7


def test_ends_of_the_slopes_interval_lie_at_the_limit_of_the_likelihood_ratio() -> None:
    data = simulated(100)
    curve = fitted(*data)
    lapses = np.linspace(0.0005, 0.9995, 2000)
    votes = (data[2] + data[3]).sum()
    for slope in curve.slope_interval:
        best = max(log_likelihood(Curve((), slope, lapse), *data) for lapse in lapses)
        assert 2 * votes * (curve.log_likelihood - best) == pytest.approx(3.841, abs=0.01)


D_A, D_B, *_ = simulated(200)
NEAR = (D_A < D_B).astype(float)
WIDE = np.abs(D_A - D_B) > 0.3
UNDETERMINED = {
    "everyone agrees": (D_A, D_B, 3 * NEAR, 3 * (1 - NEAR)),
    "everyone disagrees": (D_A, D_B, 3 * (1 - NEAR), 3 * NEAR),
    "one half at every gap": (D_A, D_B, np.ones(200), np.ones(200)),
    "a step, which any steep slope explains": (
        D_A, D_B, np.where(WIDE, 9 * NEAR + (1 - NEAR), 5.0), np.where(WIDE, 9 * (1 - NEAR) + NEAR, 5.0),
    ),
    "a single gap": (np.zeros(200), np.full(200, 0.3), np.full(200, 4), np.ones(200)),
    "wide gaps only": (np.zeros(200), 1 + D_A, np.full(200, 4), np.ones(200)),
    "one triplet": (D_A[:1], D_B[:1], np.ones(1), np.zeros(1)),
    "few votes": tuple(column[:6] for column in (D_A, D_B, NEAR, 1 - NEAR)),
    "no gap at all": (D_A, D_A, NEAR, 1 - NEAR),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in UNDETERMINED if "step" not in name])
def test_votes_that_do_not_determine_the_slope_are_reported(name: str) -> None:
    curve = fitted(*UNDETERMINED[name])
    assert not curve.identified
    assert curve.slope_interval[0] == 0 or curve.slope_interval[1] == math.inf


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_identification_does_not_depend_on_the_unit_of_distance(scale: float) -> None:
    d_a, d_b, *votes = simulated(200)
    curve, scaled = fitted(d_a, d_b, *votes), fitted(scale * d_a, scale * d_b, *votes)
    assert curve.identified and scaled.identified
    assert scaled.slope * scale == pytest.approx(curve.slope, rel=1e-6) and scaled.lapse == pytest.approx(curve.lapse)


@pytest.mark.parametrize("name", ["as simulated", *UNDETERMINED])
def test_rounding_of_the_distances_changes_the_log_likelihood_no_more_than_it_must(name: str) -> None:
    """A gap that moves by e moves the log-likelihood of a vote by at most slope * e, at whatever slope is the best.

    The parameters have no such bound: where the likelihood is flat, rounding decides between very different ones.
    """
    d_a, d_b, *votes = UNDETERMINED.get(name, simulated(200))
    curve = fitted(d_a, d_b, *votes)
    random = np.random.default_rng(1)
    for _ in range(2):
        moved_a, moved_b = (d + random.uniform(-1e-7, 1e-7, len(d)) * (d_a != d_b) for d in (d_a, d_b))
        moved = fitted(moved_a, moved_b, *votes)
        if math.isnan(curve.log_likelihood):
            assert math.isnan(moved.log_likelihood)
            continue
        bound = 2e-7 * max(curve.slope, moved.slope)
        assert abs(moved.log_likelihood - curve.log_likelihood) <= bound + 1e-12
