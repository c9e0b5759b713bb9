"""Mean scores and same-or-different pairs: coefficients and resamples against scipy and brute force."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dreamsim_guidance.data.ratings import Ratings
from dreamsim_guidance.data.same_pairs import SamePairs
from dreamsim_guidance.evaluation.jnd import average_precision, judge_same_pairs, resample_average_precision
from dreamsim_guidance.evaluation.quality import judge_ratings
from dreamsim_guidance.evaluation.statistics import rank_correlation
from dreamsim_guidance.evaluation.statistics.intervals import draws
from dreamsim_guidance.evaluation.statistics.rank_correlation import (
    fit_logistic,
    resample_kendall,
    resample_pearson,
    resample_spearman,
)

COEFFICIENTS = [
    (resample_spearman, stats.spearmanr),
    (resample_kendall, stats.kendalltau),
    (resample_pearson, stats.pearsonr),
]


def tied(rows: int = 200, groups: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=rows).round(1)
    return x, (x + random.normal(size=rows)).round(1), random.integers(0, groups, rows)


@pytest.mark.parametrize(("ours", "theirs"), COEFFICIENTS)
def test_coefficients_are_scipys_with_ties_and_in_each_resample(ours, theirs) -> None:  # type: ignore[no-untyped-def]
    x, y, cluster = tied()
    value, replicates = ours(x, y, cluster, 30, 7)
    assert value == pytest.approx(theirs(x, y).statistic, abs=1e-10)
    times = np.concatenate(list(draws(12, 30, 7))).astype(int)
    for i in (0, 13, 29):
        rows = np.concatenate([np.tile(np.flatnonzero(cluster == g), times[i, g]) for g in range(12)])
        assert replicates[i] == pytest.approx(theirs(x[rows], y[rows]).statistic, abs=1e-10)


@pytest.mark.parametrize(("ours", "theirs"), COEFFICIENTS)
def test_a_constant_has_no_correlation(ours, theirs) -> None:  # type: ignore[no-untyped-def]
    _, y, cluster = tied()
    assert np.isnan(ours(np.full(200, 0.3), y, cluster, 10, 0)[0])


def test_kendall_of_many_pictures_does_without_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, cluster = tied()
    monkeypatch.setattr(rank_correlation, "_MOST", 100)
    value, replicates = resample_kendall(x, y, cluster, 30, 7)
    assert value == pytest.approx(stats.kendalltau(x, y).statistic) and len(replicates) == 0


@pytest.mark.parametrize("parameters", [4, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_logistic_curve_straightens_a_bend(parameters: int, sign: int) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=300) * 40 + 7
    y = 20 + 60 / (1 + np.exp(-(x - 10) / 12)) + random.normal(size=300)
    fitted = fit_logistic(sign * x, y, parameters)  # type: ignore[arg-type]
    assert stats.pearsonr(x, y).statistic < 0.95
    assert stats.pearsonr(fitted, y).statistic > 0.995
    assert np.sqrt(np.square(fitted - y).mean()) < 1.1


def test_a_curve_that_cannot_be_fitted_is_left_out(unchecked: None) -> None:
    few = np.array([1.0, 2.0, 3.0])
    assert fit_logistic(few, few) is few
    flat = np.ones(20)
    assert fit_logistic(flat, np.arange(20.0)) is flat
    with pytest.raises(ValueError, match="4 or 5 parameters, got 3"):
        fit_logistic(few, few, 3)  # type: ignore[arg-type]


def ratings() -> tuple[Ratings, dict[str, np.ndarray]]:
    """Ten references with eight pictures each, in two groups; distances of each reference have another level."""
    random = np.random.default_rng(2)
    reference = np.arange(10).repeat(8)
    score = random.random(80).round(1)
    near = -score + 0.1 * random.normal(size=80) + 3 * reference  # each reference has another level
    data = Ratings(
        tuple(Path(f"{i}.png") for i in range(90)),
        reference,
        np.arange(10, 90),
        score,
        tuple("ab"[i % 2] for i in range(80)),
        ("",) * 80,
    )
    return data, {"levels": near, "level": -score, "flat": np.where(reference < 9, 1.0, -score)}


def test_within_references_levels_do_not_count() -> None:
    data, metrics = ratings()
    report = judge_ratings(metrics, data, resamples=200)
    levels, level, flat = (report.agreement[name] for name in metrics)
    assert abs(levels["spearman"].value) < 0.3 and levels["spearman within"].value > 0.85
    assert levels["spearman within"].value == pytest.approx(
        np.mean([stats.spearmanr(-metrics["levels"][r], data.score[r]).statistic for r in np.arange(80).reshape(10, 8)])
    )
    assert levels["kendall within"].value == pytest.approx(
        np.mean(
            [stats.kendalltau(-metrics["levels"][r], data.score[r]).statistic for r in np.arange(80).reshape(10, 8)]
        )
    )
    assert all(level[name].value == pytest.approx(1, abs=1e-6) for name in level)
    # nine of ten references get one distance for all: no order is found there
    assert flat["spearman within"].value == pytest.approx(0.1)
    assert report.lead["flat"]["spearman within"].high < 0
    assert set(report.groups) == {"a", "b"} and report.groups["a"].count == 40 and report.kind == "ratings"


def test_pairs_within_references_are_counted_by_hand() -> None:
    data, metrics = ratings()
    result = judge_ratings(metrics, data, resamples=200).agreement["levels"]["pairs within"]
    right = total = 0.0
    d, s = metrics["levels"], data.score
    for i in range(80):
        for j in range(i):
            if data.reference[i] == data.reference[j] and s[i] != s[j]:
                right += 0.5 if d[i] == d[j] else float((d[i] < d[j]) == (s[i] > s[j]))
                total += 1
    assert result.value == pytest.approx(right / total) and result.low < result.value < result.high


def test_one_picture_of_each_reference_has_no_within() -> None:
    data, metrics = ratings()
    alone = Ratings(data.images, np.arange(10), np.arange(10, 20), np.arange(10.0), ("",) * 10, ("",) * 10)
    report = judge_ratings({"m": metrics["level"][:10]}, alone, 200)
    assert set(report.agreement["m"]) == {"spearman", "kendall", "pearson"} == set(report.measures)


def pairs() -> tuple[SamePairs, np.ndarray]:
    random = np.random.default_rng(3)
    first = random.integers(0, 15, 120)
    share = random.integers(0, 4, 120) / 3
    data = SamePairs(
        tuple(Path(f"{i}.png") for i in range(40)),
        first,
        random.integers(15, 40, 120),
        share,
        np.full(120, 3.0),
        tuple("cnn" if i % 3 else "traditional" for i in range(120)),
        ("val",) * 120,
    )
    return data, (1 - share + random.random(120)).round(1)


def test_average_precision_of_resamples_is_that_of_the_pairs_in_them() -> None:
    data, distances = pairs()
    result = resample_average_precision(distances[None], data.share_same, data.a, 20, 5)
    assert result.values[0] == average_precision(distances, data.share_same)
    times = np.concatenate(list(draws(15, 20, 5))).astype(int)
    for i in (0, 19):
        rows = np.concatenate([np.tile(np.flatnonzero(data.a == g), times[i, g]) for g in range(15)])
        expected = average_precision(distances[rows], data.share_same[rows])
        assert result.replicates[i, 0] == pytest.approx(expected, abs=1e-12)


def test_average_precision_is_that_of_the_perceptual_similarity_repository() -> None:
    # LPIPS's JND score: counts of same and not same by growing distance, then VOC's area
    data, _ = pairs()
    distances = np.random.default_rng(4).random(120)  # without ties, which it takes in the order of the list
    same = data.share_same[np.argsort(distances)]
    true, false = np.cumsum(same), np.cumsum(1 - same)
    recall = np.concatenate([[0.0], true / same.sum(), [1.0]])
    precision = np.concatenate([[0.0], true / (true + false), [0.0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    area = sum((b - a) * p for (a, b), p in zip(pairwise(recall), precision[1:], strict=True))
    assert average_precision(distances, data.share_same) == pytest.approx(area)


def test_same_pairs_are_judged_by_family() -> None:
    data, distances = pairs()
    report = judge_same_pairs({"m": distances, "none": np.ones(120)}, data, resamples=200)
    result = report.agreement["m"]["average precision"]
    assert result.low < result.value < result.high and report.lead["none"]["average precision"].high < 0
    assert report.agreement["none"]["average precision"].value == pytest.approx(data.share_same.mean())
    assert {name: part.count for name, part in report.groups.items()} == {"cnn": 80, "traditional": 40}
    never = SamePairs(
        data.images, data.a, data.b, np.where(np.array(data.group) == "cnn", 0.0, data.share_same), data.votes,
        data.group, data.split,
    )  # fmt: skip
    assert judge_same_pairs({"m": distances}, never, 200).groups["cnn"].agreement["m"] == {}
