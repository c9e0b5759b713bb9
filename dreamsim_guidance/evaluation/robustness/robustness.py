"""How much of a metric's agreement with people an adversary leaves.

The adversary is free to leave a picture as it is, so it never helps: a triplet's credit under attack is the smaller one of its
credits before and after. Under the rule "majority", it is 1 only where the metric sides with people and keeps its decision.

    kept   1 if the metric prefers the same candidate before and after the attack, else 0; people take no part

Published figures are of this kind: DreamSim's ensemble keeps 0.5 % of its correct decisions on NIGHTS under linf 4/255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation.robustness.attack import Attack
from dreamsim_guidance.evaluation.robustness.attacked_triplets import AttackedDistances
from dreamsim_guidance.evaluation.statistics.agreement import RULES, Rule, credits
from dreamsim_guidance.evaluation.statistics.intervals import Interval, resample_means

__all__ = ["CLEAN", "KEPT", "Robustness", "robustness"]

CLEAN, KEPT = "none", "kept"
"""The name of the row without an attack, and of the column that counts decisions that are kept."""


@dataclass(frozen=True)
class Robustness:
    """The agreement of each metric under each attack.

    agreement: by metric, then by attack ("none" first), then by measure: the rules, and "kept".
    sizes: side of the square at which each metric's pictures were attacked; None for the pictures' own size.
    steps: of each attack.
    """

    agreement: dict[str, dict[str, dict[str, Interval]]] = field(default_factory=dict)
    sizes: dict[str, int | None] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    @property
    def measures(self) -> list[str]:
        """The rules of agreement that left at least one triplet, and "kept"."""
        return list(dict.fromkeys(m for rows in self.agreement.values() for row in rows.values() for m in row))

    @property
    def notes(self) -> list[str]:
        """Sentences that explain the numbers."""
        steps = ", ".join(f"{name} {count} steps" for name, count in self.steps.items())
        sizes = ", ".join(f"{name} {f'{n} x {n}' if n else 'its own size'}" for name, n in self.sizes.items())
        return [
            f"under attack ({steps}): projected gradient ascent changes the candidate that the metric prefers, as the metric "
            f"reads it (pixels: {sizes}); a triplet keeps its credit only if the attack leaves it",
            f"{KEPT}: 1 if the metric prefers the same candidate before and after the attack, else 0",
        ]


def robustness(
    results: Mapping[str, AttackedDistances],
    data: Judgments,
    attacks: Sequence[Attack],
    rules: Sequence[str] = RULES,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Robustness:
    """Summarise the attacked distances of several metrics; intervals resample whole references.

    rules: of `RULES`; others, and those that leave out every triplet, are left out.
    resamples, seed, level: of the bootstrap intervals.
    """
    chosen = [rule for rule in RULES if rule in rules]
    agreement = {name: _agreement(result, data, chosen, resamples, seed, level) for name, result in results.items()}
    return Robustness(
        agreement,
        {name: result.size for name, result in results.items()},
        {attack.name: attack.steps for attack in attacks},
    )


def _agreement(
    result: AttackedDistances, data: Judgments, rules: Sequence[Rule], resamples: int, seed: int, level: float
) -> dict[str, dict[str, Interval]]:
    names = [CLEAN, *result.attacked]
    columns: dict[str, NDArray[np.float64]] = {}
    for rule in rules:
        clean = credits(result.clean_a, result.clean_b, data.votes_a, data.votes_b, rule)
        attacked = [credits(*result.under(name), data.votes_a, data.votes_b, rule) for name in result.attacked]
        if not np.isnan(clean).all():
            columns[rule] = np.stack([clean, *(np.minimum(clean, credit) for credit in attacked)])
    farther = np.maximum(result.clean_a, result.clean_b)
    columns[KEPT] = np.stack([np.ones(len(data)), *(values <= farther for values in result.attacked.values())])
    means = {
        measure: resample_means(table, data.reference, resamples=resamples, seed=seed)
        for measure, table in columns.items()
    }
    return {
        name: {measure: resampled.interval(i, level) for measure, resampled in means.items()}
        for i, name in enumerate(names)
    }
