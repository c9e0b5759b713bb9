"""The results of an evaluation: numbers and words only, so that they can be written as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamsim_guidance.evaluation.metrics.work import Work
from dreamsim_guidance.evaluation.robustness.robustness import Robustness
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.evaluation.statistics.psychometric import Curve

__all__ = ["MEASURES", "ROWS", "Part", "Report"]

MEASURES: Mapping[str, str] = {
    "fraction": "the share of a triplet's votes that side with the metric; equal distances count 1/2 (the original's score)",
    "majority": "1 if the metric sides with more than half of the votes, else 0; triplets with equal votes are left out, equal "
    "distances count 1/2",
    "unanimous": "as majority, but only on triplets without a dissenting vote",
    "odd-one-out": "1 if the two pictures that people kept together are no farther apart than either is from the third, "
    "else 0; equal distances count as right",
    "average precision": "area under the precision-recall curve of pairs that people took for the same, nearest pairs first",
    "spearman": "rank correlation of similarity with the scores, over all pictures",
    "kendall": "tau-b of similarity with the scores, over all pictures",
    "pearson": "correlation with the scores after a monotone logistic curve with 4 parameters, over all pictures",
    "spearman within": "spearman among the pictures of one reference, mean over references",
    "kendall within": "kendall among the pictures of one reference, mean over references",
    "pearson within": "pearson among the pictures of one reference, mean over references",
    "pairs within": "share of the pairs of pictures of one reference whose distances are in the order of their scores; equal "
    "distances count 1/2, pairs with equal scores are left out",
}
"""What each number means; a better metric has higher numbers."""


ROWS: Mapping[str, str] = {"triplets": "triplets", "same pairs": "pairs", "ratings": "rated pictures"}
"""What `Part.count` counts, by `Report.kind`."""


@dataclass(frozen=True)
class Part:
    """The results on a part of a set.

    count: rows, that is triplets, pairs, or rated pictures.
    references: distinct references among them.
    agreement: of each metric under each measure, with intervals clustered by reference.
    ceiling: how often one person agrees with another, under the rule "fraction"; None for sets of another kind, and if no
        triplet has two votes.
    limit: the most that any metric can reach on these votes, under the same rule; None as `ceiling`.
    """

    count: int
    references: int
    agreement: dict[str, dict[str, Interval]]
    ceiling: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Report(Part):
    """The results on a whole set, and on each of its splits and groups.

    kind: "triplets", "same pairs" or "ratings".
    lead: the difference of each further metric to the first one.
    images: distinct pictures.
    curves: how agreement grows with the gap between a triplet's two distances.
    failed: metrics that could not run, with the reason.
    work: how many pictures each metric computed, and how long that took.
    measures: what each measure means.
    robustness: agreement under attack; None without attacks.
    level, resamples, seed: of the bootstrap intervals.
    source: the set's folder or file, and the split.
    """

    kind: str = "triplets"
    lead: dict[str, dict[str, Interval]] = field(default_factory=dict)
    splits: dict[str, Part] = field(default_factory=dict)
    groups: dict[str, Part] = field(default_factory=dict)
    images: int = 0
    ceiling_interval: Interval | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    measures: dict[str, str] = field(default_factory=dict)
    robustness: Robustness | None = None
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    source: str = ""
