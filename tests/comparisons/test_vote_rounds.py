from pathlib import Path

import numpy as np
import pytest

from dreamsim_guidance.comparisons.vote_rounds import VoteRounds
from dreamsim_guidance.comparisons.vote_rounds_run import expected_votes, simulate_rounds, unanimous_chance


@pytest.mark.parametrize(("rounds", "votes"), [(6, 1), (3, 2), (1, 6)])
@pytest.mark.parametrize("p", [0.5, 0.7, 0.95])
def test_rounds_keep_and_cost_what_the_closed_form_says(rounds: int, votes: int, p: float) -> None:
    n = 40_000
    asked, first = simulate_rounds(np.full(n, p), rounds, votes, np.random.default_rng(0))
    kept = (first == 0) | (first == asked)
    chance = p**6 + (1 - p) ** 6
    assert abs(kept.mean() - chance) < 4 * (chance * (1 - chance) / n) ** 0.5
    assert (asked[kept] == 6).all()
    stages = [votes * (p ** (votes * i) + (1 - p) ** (votes * i)) for i in range(1, rounds)]
    assert abs(asked.mean() - (votes + sum(stages))) < 4 * asked.std() / n**0.5 + 1e-12
    assert float(expected_votes(np.array([p]), rounds, votes)[0]) == pytest.approx(votes + sum(stages))
    assert float(unanimous_chance(np.array([p]), 6)[0]) == pytest.approx(chance)


def test_one_more_person_agrees_with_kept_triplets_as_often_as_the_closed_form_says() -> None:
    random = np.random.default_rng(1)
    p = np.repeat(random.random(400), 200)
    asked, first = simulate_rounds(p, 3, 2, random)
    kept = (first == 0) | (first == asked)
    agreement = np.where(first[kept] > 0, p[kept], 1 - p[kept]).mean()
    assert agreement == pytest.approx((unanimous_chance(p, 7).sum() / unanimous_chance(p, 6).sum()), abs=0.01)


def test_the_recipe_reports_cost_and_bias_of_rounds(tmp_path: Path) -> None:
    results = VoteRounds(triplets=40, schedules=("3x2", "1x6"), seeds=4).run(tmp_path)
    assert list(results["designs"]) == ["rounds 3x2", "rounds 1x6", "one go, majority", "one go, unanimous"]
    cost = {name: row["votes per kept"]["value"] for name, row in results["designs"].items()}
    assert cost["rounds 3x2"] < cost["rounds 1x6"]
    assert results["closed form"]["votes per kept, 3x2"] < results["closed form"]["votes per kept, 1x6"]
    assert results["designs"]["rounds 3x2"]["gap"]["value"] > results["all triplets"]["gap"]
    assert results["designs"]["rounds 3x2"]["agreement"]["value"] > results["all triplets"]["agreement"]
    assert "votes per kept" in (tmp_path / "table.md").read_text()
    again = VoteRounds(triplets=40, schedules=("3x2", "1x6"), seeds=4).run(
        tmp_path
    )  # from the embeddings that are there
    assert again == results


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedules": ("3x2", "1x5")}, "all schedules must end with as many votes, got 3x2, 1x5"),
        ({"schedules": ("3",)}, "a schedule is written as ROUNDSxVOTES, such as 3x2, got '3'"),
        ({"schedules": ()}, "got none"),
        ({"lapse": 1.5}, "lapse between 0 and 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_impossible_settings_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoteRounds(**fields)
