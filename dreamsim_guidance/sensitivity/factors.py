"""Controlled factors: how far a metric moves when one factor of a scene changes and nothing else does.

With d the distance of a scene to its changed version, averaged over scenes, a step is reported

    distance    d as it is
    relative    (d - d_0) / (D - d_0), where D is the mean distance between different scenes and d_0 that of a scene to itself,
                0 for most metrics: 1 is as far as unrelated pictures are
    share       d - d_0, by its sum over all factors, at the largest step of each; shares add up to 1 ("redrawn" is not among
                them)

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

    unrelated, identical: the mean distance between different scenes, and of a scene to itself; if the one does not exceed the
        other, the metric has no scale, and relative distances and shares are NaN.
    steps: by factor, with rising amounts. share: by factor.
    share_lead, relative_lead: by factor, at its largest step, minus the value of the first metric on the same resamples of
        the scenes; empty for the first metric.
    """

    unrelated: Interval
    identical: Interval
    steps: dict[str, list[FactorStep]]
    share: dict[str, Interval]
    share_lead: dict[str, Interval] = field(default_factory=dict)
    relative_lead: dict[str, Interval] = field(default_factory=dict)


def factor_profiles(
    distances: Mapping[str, NDArray[np.float64]], pictures: FactorPictures, bootstrap: Bootstrap
) -> dict[str, FactorProfile]:
    """Summarise the distances of each metric to the pairs of `step_pairs`. Intervals resample scenes."""
    count, steps = len(pictures.references), list(pictures.variants)
    split = {name: split_distances(values, count, len(steps)) for name, values in distances.items()}
    largest = {
        factor: i for i, (factor, _) in enumerate(steps) if factor != REDRAWN
    }  # amounts rise: the last one stays
    names, k, f = list(split), len(steps), len(largest)
    if not names:
        return {}
    scales = {name: split[name].scale(bootstrap) for name in names}
    # all metrics in one call, so that they meet the same resamples
    relative = ratios(
        np.concatenate([split[name].moved for name in names]),
        np.concatenate([np.tile(scales[name], (k, 1)) for name in names]),
        bootstrap,
    )
    tops = [split[name].moved[list(largest.values())] for name in names]
    sums = [top.sum(0) * scales[name].any() for name, top in zip(names, tops, strict=True)]
    shares = ratios(np.concatenate(tops), np.concatenate([np.tile(total, (f, 1)) for total in sums]), bootstrap)
    clusters, level = np.arange(count), bootstrap.level
    profiles = {}
    for m, name in enumerate(names):
        rows: dict[str, list[FactorStep]] = {}
        for i, step in enumerate(steps):
            distance = mean(split[name].steps[i], clusters, bootstrap)
            answer = FactorStep(step[1], pictures.known[step], distance, relative.interval(m * k + i, level))
            rows.setdefault(step[0], []).append(answer)
        lead = range(f) if m else ()
        factors = list(largest)
        profiles[name] = FactorProfile(
            *split[name].means(bootstrap),
            rows,
            {factor: shares.interval(m * f + i, level) for i, factor in enumerate(factors)},
            {factors[i]: shares.lead(m * f + i, i, level) for i in lead},
            {factors[i]: relative.lead(m * k + largest[factors[i]], largest[factors[i]], level) for i in lead},
        )
    return profiles
