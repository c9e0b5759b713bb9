"""A metric against people: agreement under every rule, with intervals, beside what people reach among themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation.agreement import RULES, Rule, ceiling, credits
from dreamsim_guidance.evaluation.embedding import directions
from dreamsim_guidance.evaluation.intervals import Interval, cluster_bootstrap, paired_difference
from dreamsim_guidance.metric import DreamSim
from dreamsim_guidance.preprocess import load_image, resize

__all__ = ["Distances", "Report", "by_embedding", "by_pixels", "judge"]

_CHUNK = 512
"""Triplets at a time, to bound the memory."""

Distances = tuple[NDArray[np.float64], NDArray[np.float64]]
"""From the reference to a and to b, each `(n,)`."""


@dataclass(frozen=True)
class Report:
    """Agreement of each metric under each rule, clustered by reference, and its lead over the first metric.

    `ceiling` is that of people under the rule "fraction", None if no triplet has two votes.
    """

    triplets: int
    references: int
    ceiling: float | None
    agreement: dict[str, dict[Rule, Interval]]
    lead: dict[str, dict[Rule, Interval]]


def judge(metrics: dict[str, Distances], judgments: Judgments, resamples: int = 2000, seed: int = 0) -> Report:
    """Score distances on the same judgments. A rule that leaves out every triplet is absent."""
    agreement: dict[str, dict[Rule, Interval]] = {}
    lead: dict[str, dict[Rule, Interval]] = {}
    first: dict[Rule, NDArray[np.float64]] = {}
    for name, (d_a, d_b) in metrics.items():
        agreement[name], lead[name] = {}, {}
        for rule in RULES:
            credit = credits(d_a, d_b, judgments.votes_a, judgments.votes_b, rule)
            if np.isnan(credit).all():
                continue
            agreement[name][rule] = cluster_bootstrap(credit, judgments.reference, resamples=resamples, seed=seed)
            if rule in first:
                lead[name][rule] = paired_difference(
                    credit, first[rule], judgments.reference, resamples=resamples, seed=seed
                )
            first.setdefault(rule, credit)
    several = (judgments.votes_a + judgments.votes_b >= 2).any()
    return Report(
        triplets=len(judgments),
        references=len(np.unique(judgments.reference)),
        ceiling=ceiling(judgments.votes_a, judgments.votes_b) if several else None,
        agreement=agreement,
        lead={name: rules for name, rules in lead.items() if rules},
    )


def by_embedding(metric: DreamSim, judgments: Judgments, progress: bool = True) -> Distances:
    """The metric's distances; every distinct picture is read and embedded once."""
    return _pairs(judgments, directions(metric, judgments.images, progress).cpu(), lambda a, b: 0.5 * (a - b).square())


def by_pixels(judgments: Judgments, size: int = 64) -> Distances:
    """Mean squared difference of the pictures, squashed to `size` x `size`: the baseline that knows nothing."""
    return _pairs(judgments, _pixels(judgments.images, size), lambda a, b: (a - b).square() / a.shape[1])


def _pixels(files: Sequence[Path], size: int) -> Tensor:
    return torch.cat([resize(load_image(file), (size, size)).flatten(1) for file in files])


def _pairs(judgments: Judgments, features: Tensor, difference: Callable[[Tensor, Tensor], Tensor]) -> Distances:
    features = features.double()
    found = []
    for candidate in (judgments.a, judgments.b):
        parts = [
            difference(features[judgments.reference[i : i + _CHUNK]], features[candidate[i : i + _CHUNK]]).sum(1)
            for i in range(0, len(judgments), _CHUNK)
        ]
        found.append(torch.cat(parts).numpy())
    return found[0], found[1]
