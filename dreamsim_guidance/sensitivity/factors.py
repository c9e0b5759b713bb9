"""Controlled factors: how far a metric moves when one factor of a scene changes and nothing else does.

With d the distance of a scene to its changed version, averaged over scenes, a step is reported

    distance    d as it is
    relative    d / D, where D is the mean distance between different scenes: 1 is as far as unrelated pictures are
    share       d / sum of d over all factors, at the largest step of each; shares add up to 1 ("redrawn" is not among them)

Two metrics are compared by relative distances and shares, which do not depend on the size of their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.sensitivity.drawn_pictures import REDRAWN, FactorPictures
from dreamsim_guidance.sensitivity.step_pairs import split_distances
from dreamsim_guidance.sensitivity.summaries import Bootstrap, mean, ratios

__all__ = ["FactorProfile", "FactorStep", "factor_profiles"]


@dataclass(frozen=True)
class FactorStep:
    """One step: the amount in (0, 1], the known difference of the factor in [0, 1], and the metric's answer."""

    amount: float
    known: float
    distance: Interval
    relative: Interval


@dataclass(frozen=True)
class FactorProfile:
    """What a metric makes of each factor.

    unrelated: the mean distance between different scenes. steps: by factor, with rising amounts. share: by factor.
    share_lead, relative_lead: by factor, at its largest step, minus the value of the first metric on the same resamples of
        the scenes; empty for the first metric.
    """

    unrelated: Interval
    steps: dict[str, list[FactorStep]]
    share: dict[str, Interval]
    share_lead: dict[str, Interval] = field(default_factory=dict)
    relative_lead: dict[str, Interval] = field(default_factory=dict)


def factor_profiles(
    distances: Mapping[str, NDArray[np.float64]], pictures: FactorPictures, bootstrap: Bootstrap
) -> dict[str, FactorProfile]:
    """Summarise the distances of each metric to the pairs of `step_pairs`. Intervals resample scenes."""
    count, steps = len(pictures.references), list(pictures.variants)
    by_step, unrelated = {}, {}
    for name, values in distances.items():
        by_step[name], unrelated[name] = split_distances(values, count, len(steps))
    largest = {
        factor: i for i, (factor, _) in enumerate(steps) if factor != REDRAWN
    }  # amounts rise: the last one stays
    names, k, f = list(by_step), len(steps), len(largest)
    if not names:
        return {}
    # all metrics in one call, so that they meet the same resamples
    relative = ratios(
        np.concatenate([by_step[name] for name in names]),
        np.concatenate([np.tile(unrelated[name], (k, 1)) for name in names]),
        bootstrap,
    )
    tops = [by_step[name][list(largest.values())] for name in names]
    shares = ratios(np.concatenate(tops), np.concatenate([np.tile(top.sum(0), (f, 1)) for top in tops]), bootstrap)
    clusters, level = np.arange(count), bootstrap.level
    profiles = {}
    for m, name in enumerate(names):
        rows: dict[str, list[FactorStep]] = {}
        for i, step in enumerate(steps):
            distance = mean(by_step[name][i], clusters, bootstrap)
            answer = FactorStep(step[1], pictures.known[step], distance, relative.interval(m * k + i, level))
            rows.setdefault(step[0], []).append(answer)
        lead = range(f) if m else ()
        factors = list(largest)
        profiles[name] = FactorProfile(
            mean(unrelated[name], clusters, bootstrap),
            rows,
            {factor: shares.interval(m * f + i, level) for i, factor in enumerate(factors)},
            {factors[i]: shares.lead(m * f + i, i, level) for i in lead},
            {factors[i]: relative.lead(m * k + largest[factors[i]], largest[factors[i]], level) for i in lead},
        )
    return profiles
