"""How well a metric agrees with people: rules of agreement, what people reach among themselves, and how sure that is."""

from dreamsim_guidance.evaluation.agreement import RULES, Rule, ceiling, credits
from dreamsim_guidance.evaluation.bradley_terry import bradley_terry
from dreamsim_guidance.evaluation.identification import two_way_identification
from dreamsim_guidance.evaluation.intervals import Interval, cluster_bootstrap, paired_difference
from dreamsim_guidance.evaluation.jnd import average_precision

__all__ = [
    "RULES",
    "Interval",
    "Rule",
    "average_precision",
    "bradley_terry",
    "ceiling",
    "cluster_bootstrap",
    "credits",
    "paired_difference",
    "two_way_identification",
]
