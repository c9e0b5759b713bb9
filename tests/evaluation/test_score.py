"""Triplets against distances: rules, splits, groups, the odd one out, curves, and the hardest disagreements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.evaluation import ceiling, credits
from dreamsim_guidance.evaluation.hardest import hardest_disagreements
from dreamsim_guidance.evaluation.score import judge
from dreamsim_guidance.evaluation.statistics.psychometric import psychometric_curve


def drawn(rows: int = 400, seed: int = 0) -> tuple[Judgments, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Triplets of twenty references in two splits and three groups, a metric that people agree with, and a random one."""
    random = np.random.default_rng(seed)
    reference = random.integers(0, 20, rows)
    d_a, d_b, c_a, c_b = random.random((4, rows))
    n_a = random.binomial(5, 1 / (1 + np.exp(-6 * (d_b - d_a)))).astype(float)
    data = Judgments(
        tuple(Path(f"{i}.png") for i in range(60)),
        reference,
        random.integers(20, 40, rows),
        random.integers(40, 60, rows),
        n_a,
        5 - n_a,
        tuple(random.choice(["x", "y", "z"], rows).tolist()),
        tuple(random.choice(["val", "test"], rows).tolist()),
    )
    return data, {"people": (d_a, d_b), "chance": (c_a, c_b)}


def test_a_report_has_every_rule_and_the_lead_over_the_first() -> None:
    data, metrics = drawn()
    report = judge(metrics, data, resamples=300)
    assert (report.count, report.references, report.images) == (400, 20, 60)
    for name, sides in metrics.items():
        for rule in ("fraction", "majority", "unanimous"):
            credit = credits(*sides, data.votes_a, data.votes_b, rule)  # type: ignore[arg-type]
            interval = report.agreement[name][rule]
            assert interval.value == pytest.approx(np.nanmean(credit)) and interval.count == np.isfinite(credit).sum()
            assert interval.low <= interval.value <= interval.high and interval.clusters == 20
    assert set(report.lead) == {"chance"} and report.lead["chance"]["majority"].high < 0
    assert report.ceiling == ceiling(data.votes_a, data.votes_b)
    assert report.ceiling_interval is not None and report.ceiling_interval.value == pytest.approx(report.ceiling)
    assert report.limit == pytest.approx(np.maximum(data.votes_a, data.votes_b).mean() / 5)
    assert report.agreement["people"]["fraction"].value < report.limit


def test_splits_and_groups_are_judged_as_sets_of_their_own() -> None:
    data, metrics = drawn()
    report = judge(metrics, data, resamples=200)
    assert set(report.splits) == {"val", "test"} and set(report.groups) == {"x", "y", "z"}
    rows = np.flatnonzero(np.array(data.group) == "y")
    alone = judge({name: (d_a[rows], d_b[rows]) for name, (d_a, d_b) in metrics.items()}, data.select(rows), 200)
    assert report.groups["y"].agreement == alone.agreement
    assert (report.groups["y"].count, report.groups["y"].ceiling) == (alone.count, alone.ceiling)
    one_group = replace(data, group=("x",) * 400, split=("",) * 400)
    assert judge(metrics, one_group, 200).groups == {} == judge(metrics, one_group, 200).splits


def test_the_odd_one_out_counts_lines_and_their_ties() -> None:
    # rows 2 i and 2 i + 1 are one line: the two that are alike against the third, from either of them
    d_a = np.array([0.2, 0.2, 0.5, 0.5, 0.4, 0.4])
    d_b = np.array([0.2, 0.3, 0.6, 0.4, 0.9, 0.9])
    data = Judgments(
        tuple(Path(f"{i}.png") for i in range(3)),
        *(np.array([0, 1] * 3), np.array([1, 0] * 3), np.array([2, 2] * 3)),
        np.ones(6),
        np.zeros(6),
        ("things",) * 6,
        ("val",) * 6,
    )
    report = judge({"m": (d_a, d_b)}, data, 200, rules=["odd-one-out", "fraction"])
    assert report.agreement["m"]["odd-one-out"].value == pytest.approx(2 / 3)
    assert report.agreement["m"]["odd-one-out"].count == 3
    assert report.agreement["m"]["fraction"].value == pytest.approx((0.5 + 1 + 1 + 0 + 1 + 1) / 6)
    assert report.ceiling is None and report.limit is None  # one vote each


def test_a_rule_that_leaves_out_everything_is_absent() -> None:
    data, metrics = drawn(30)
    tied = replace(data, votes_a=np.full(30, 2.0), votes_b=np.full(30, 2.0))
    assert set(judge(metrics, tied, 200).agreement["people"]) == {"fraction"}
    with pytest.raises(ValueError, match="unknown rule 'round'; known: fraction, majority, unanimous, odd-one-out"):
        judge(metrics, data, 200, rules=["round"])
    with pytest.raises(ValueError, match="at least one metric is needed"):
        judge({}, data)
    with pytest.raises(ValueError, match="distance_a has NaN at 3"):
        judge({"m": (np.where(np.arange(30) == 3, np.nan, 0.5), np.ones(30))}, data, 200)


def test_the_psychometric_curve_recovers_its_slope_and_lapse() -> None:
    random = np.random.default_rng(1)
    d_a, d_b = random.random((2, 20_000))
    p = 0.5 + 0.8 * (1 / (1 + np.exp(-5 * (d_b - d_a))) - 0.5)  # for a, which is near where d_a is small
    n_a = random.binomial(5, p)
    curve = psychometric_curve(d_a, d_b, n_a, 5 - n_a, np.arange(20_000), resamples=200)
    assert curve.slope == pytest.approx(5, rel=0.15) and curve.lapse == pytest.approx(0.2, abs=0.05)
    assert len(curve.bins) == 10
    inside = [point.agreement.low <= curve([point.gap])[0] <= point.agreement.high for point in curve.bins]
    assert sum(inside) >= 8
    gaps = [point.gap for point in curve.bins]
    assert gaps == sorted(gaps) and {point.agreement.count for point in curve.bins} == {2000}


def test_a_curve_of_equal_distances_is_empty() -> None:
    curve = psychometric_curve([1.0, 1.0], [1.0, 1.0], [1, 0], [0, 1], [0, 1])
    assert curve.bins == () and np.isnan(curve.slope)


def test_the_hardest_disagreement_is_a_wide_gap_against_clear_votes() -> None:
    d_a = np.array([0.9, 0.9, 0.1, 0.6, 0.9, 0.9])
    d_b = np.array([0.1, 0.1, 0.9, 0.5, 0.1, 0.1])
    n_a = np.array([6, 4, 6, 6, 3, 5])
    n_b = np.array([0, 2, 0, 0, 3, 0])
    # row 2 agrees, row 4 is undecided, row 3 is a narrow gap; the rest from the widest and clearest
    assert hardest_disagreements(d_a, d_b, n_a, n_b, range(6)).tolist() == [0, 5, 1, 3]
    assert hardest_disagreements(d_a, d_b, n_a, n_b, range(6), count=1).tolist() == [0]
    assert len(hardest_disagreements(d_a, d_b, n_a, n_b, [7] * 6)) == 2  # of one reference
    assert len(hardest_disagreements(d_b, d_a, n_a, n_b, range(6))) == 1
