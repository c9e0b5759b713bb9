"""What an evaluation found: numbers only, as JSON has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dreamsim_guidance.evaluation.metrics.work import Work
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.evaluation.statistics.psychometric import Curve

__all__ = ["MEASURES", "ROWS", "Part", "Report"]

MEASURES: Mapping[str, str] = {
    "fraction": "share of a triplet's votes that side with the metric; equal distances count 1/2 (the original's score)",
    "majority": "1 if the metric sides with more than half of the votes, else 0; equal votes are left out, equal "
    "distances count 1/2",
    "unanimous": "as majority, on triplets without a dissenting vote only",
    "odd-one-out": "1 if the two that people left together are no farther apart than either is from the third; equal "
    "distances count as right",
    "average precision": "area under precision over recall of pairs that people took for the same, nearest pairs first",
    "spearman": "rank correlation of similarity with the scores, over all pictures",
    "kendall": "tau-b of similarity with the scores, over all pictures",
    "pearson": "correlation with the scores after a monotone logistic curve with 4 parameters, over all pictures",
    "spearman within": "spearman among the pictures of one reference, mean over references",
    "kendall within": "kendall among the pictures of one reference, mean over references",
    "pearson within": "pearson among the pictures of one reference, mean over references",
    "pairs within": "share of pairs of pictures of one reference that are in the order of their scores; equal distances "
    "count 1/2, equal scores are left out",
}
"""What each number is; all of them higher for a better metric."""


ROWS: Mapping[str, str] = {"triplets": "triplets", "same pairs": "pairs", "ratings": "rated pictures"}
"""What `Part.count` counts, by `Report.kind`."""


@dataclass(frozen=True)
class Part:
    """Agreement of each metric under each measure on some of the rows, with intervals clustered by reference.

    `count` is the number of rows: triplets, pairs, or rated pictures. `ceiling` is how often one person agrees with
    another, and `limit` the most that any metric can reach on these very votes, both under the rule "fraction"; None
    without at least two votes for a triplet, and in sets of another kind.
    """

    count: int
    references: int
    agreement: dict[str, dict[str, Interval]]
    ceiling: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Report(Part):
    """The whole set: further each metric's `lead` over the first one, and the same for splits and groups.

    `failed` says of metrics that could not run why. `curves` tell how agreement grows with the gap between a triplet's
    two distances. `work` says how many pictures each metric computed in which time.
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
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0
    source: str = ""
