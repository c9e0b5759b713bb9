"""Questions about scenes: their random numbers, held-out factors, and the votes of simulated people."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dreamsim_guidance.data.scenes.scene import FACTORS, WEIGHTS, factor_distances
from dreamsim_guidance.data.scenes.scene_questions import HELD_OUT, SPLITS, Question, SceneSet, changed_factors


def questions(split: str, count: int, **settings: Any) -> list[Question]:
    scene_set = SceneSet(**settings)
    return [scene_set.question(split, number) for number in range(count)]


def test_a_triplet_depends_on_its_seed_split_and_number_only() -> None:
    for split in SPLITS:
        assert SceneSet(50).question(split, 4) == SceneSet(20_000, size=32).question(split, 4)
        assert SceneSet(50).question(split, 4) != SceneSet(50, seed=1).question(split, 4)


def test_no_two_triplets_share_their_random_numbers_or_their_reference() -> None:
    settings = SceneSet(seed=5)
    seeds = [settings._generator(split, number).initial_seed() for split in SPLITS for number in range(250)]
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)  # torch uses 32 bits
    references = [q.triplet.reference for split in SPLITS for q in questions(split, 20)]
    assert len(set(references)) == len(references)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_held_out_factors_are_constant_in_all_other_splits(split: str) -> None:
    seen: set[str] = set()
    for question in questions(split, 80):
        triplet = question.triplet
        changes = [changed_factors(triplet.reference, scene) for scene in (triplet.a, triplet.b)]
        assert all(1 <= len(change) <= 4 for change in changes) and question.held_out is None
        seen |= {name for change in changes for name in change}
    assert seen == set(FACTORS) - set(HELD_OUT)


@pytest.mark.parametrize("held_out", [HELD_OUT, ("shape",), ("scale", "background", "count")])
def test_the_answer_in_the_held_out_split_rests_on_one_held_out_factor(held_out: tuple[str, ...]) -> None:
    for number, question in enumerate(questions("test_held_out", 60, held_out=held_out)):
        reference, a, b = question.triplet.reference, question.triplet.a, question.triplet.b
        assert question.held_out == held_out[number % len(held_out)]
        assert changed_factors(a, b) == (question.held_out,)
        changes = [changed_factors(reference, scene) for scene in (a, b)]
        others = [change for change in changes if question.held_out not in change]
        assert len(others) == 1 and not set(others[0]) & set(held_out)
        remaining = [_distance_without(question.held_out, reference, scene) for scene in (a, b)]
        assert remaining[0] == remaining[1]  # without the held-out factor both are equally near
        assert question.triplet.b_is_nearer == (question.held_out in changes[0])


def _distance_without(factor: str, reference: Any, scene: Any) -> float:
    without = {factor, "rotation"} if factor == "shape" else {factor}  # angles of different shapes are not compared
    return sum(WEIGHTS[name] * d for name, d in factor_distances(reference, scene).items() if name not in without)


def deviation(wins: list[float], expected: list[float], variance: list[float]) -> float:
    """The deviation of the sum from its expectation, in standard deviations."""
    return (sum(wins) - sum(expected)) / math.sqrt(sum(variance))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("split", ["train", "test_held_out"])
def test_shares_of_votes_follow_the_bradley_terry_model_of_the_known_distances(split: str) -> None:
    """Votes are counted for the nearer candidate, so that the effect of a wrong temperature does not cancel between sides."""
    answered = questions(split, 400, shares=True, seed=11)
    gaps = [abs(q.triplet.distance_a - q.triplet.distance_b) for q in answered]
    nearer = [q.people - q.votes_a if q.triplet.b_is_nearer else q.votes_a for q in answered]

    def deviation_at(temperature: float, chosen: list[int]) -> float:
        shares = [logistic(gaps[i] / temperature) for i in chosen]
        people = [answered[i].people for i in chosen]
        expected = [n * p for n, p in zip(people, shares, strict=True)]
        variance = [n * p * (1 - p) for n, p in zip(people, shares, strict=True)]
        return deviation([nearer[i] for i in chosen], expected, variance)

    order = sorted(range(len(answered)), key=gaps.__getitem__)
    for part in (order, order[:200], order[200:]):  # close calls and clear ones
        assert abs(deviation_at(0.05, part)) < 3
    assert (
        abs(deviation_at(0.04, order)) > 3 and abs(deviation_at(0.0625, order)) > 3
    )  # another temperature would not pass
    assert {q.people for q in answered} == set(range(6, 12))


def test_winners_follow_the_probability_that_all_people_agree() -> None:
    """With so much noise that the wrong candidate sometimes wins: P(nearer | all n agree) = logistic(n gap / temperature)."""
    answered = questions("train", 80, temperature=0.2, seed=12)
    assert all(q.votes_a in (0, q.people) for q in answered)
    wins = [float((q.votes_a == 0) == q.triplet.b_is_nearer) for q in answered]

    def deviation_at(temperature: float) -> float:
        gaps = [q.people * abs(q.triplet.distance_a - q.triplet.distance_b) for q in answered]
        probabilities = [logistic(gap / temperature) for gap in gaps]
        return deviation(wins, probabilities, [p * (1 - p) for p in probabilities])

    assert abs(deviation_at(0.2)) < 3
    assert (
        abs(deviation_at(0.8)) > 3 and abs(deviation_at(8 * 0.2)) > 3
    )  # 8 * 0.2 is about what one person alone would give
    assert 0.8 < sum(wins) / len(wins) < 1


def test_neither_side_wins_more_often() -> None:
    answered = questions("train", 200)
    left_wins = sum((q.votes_a > 0) == q.a_is_left for q in answered)
    first_is_left = sum(q.a_is_left for q in answered)
    for count in (left_wins, first_is_left, sum(q.votes_a > 0 for q in answered)):
        assert abs(count - 100) < 3 * math.sqrt(200 / 4)
