from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from study.triplet_folders import write_triplets

from dreamsim_guidance.cli import main
from dreamsim_guidance.comparisons.active_choice import ActiveChoice
from dreamsim_guidance.comparisons.active_choice_run import votes_needed
from dreamsim_guidance.recipes.vote_rounds import compare_active_choice_tiny
from dreamsim_guidance.study import Round, make_round, next_round, read_study, simulate_votes
from dreamsim_guidance.training.active_choice import (
    CHOICES,
    choose_next,
    directions,
    fit_head,
    triplet_features,
    untuned_scale,
)
from dreamsim_guidance.training.triplet_questions import next_questions


def pool(n: int = 300, d: int = 6, seed: int = 0) -> np.ndarray:
    """Features whose first columns vary most."""
    return np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(1.5, 0.5, d)


def test_features_of_a_triplet_sum_to_the_difference_of_its_squared_distances() -> None:
    e = np.random.default_rng(0).standard_normal((20, 3, 10))
    x = triplet_features(e, directions(e.reshape(-1, 10), 4))
    assert x.shape == (20, 5)
    difference = np.square(e[:, 0] - e[:, 2]).sum(1) - np.square(e[:, 0] - e[:, 1]).sum(1)
    np.testing.assert_allclose(x.sum(1), difference, rtol=1e-10)


def test_without_votes_the_head_is_the_untuned_metric() -> None:
    x, none = pool(), np.zeros(300)
    head = fit_head(x, none, none)
    np.testing.assert_allclose(head.mean, untuned_scale(x))
    np.testing.assert_allclose(np.sqrt(np.diag(head.covariance)), untuned_scale(x))


def test_votes_move_the_head_to_the_weights_that_people_have() -> None:
    x, weights = pool(4000), np.array([2.0, 0.0, 1.0, 0.0, 0.5, 1.0])
    answers = np.random.default_rng(1).random(4000) < expit(x @ weights)
    head = fit_head(x, answers, ~answers)
    assert (np.abs(head.mean - weights) < 4 * np.sqrt(np.diag(head.covariance))).all()
    p = expit(x @ head.mean)
    gradient = x.T @ (p - answers) + (head.mean - untuned_scale(x)) / untuned_scale(x) ** 2
    assert np.abs(gradient).max() < 1e-3  # of the log posterior, at its maximum


@pytest.mark.parametrize("choice", CHOICES)
def test_every_way_chooses_different_triplets_without_votes(choice) -> None:
    x, votes = pool(), np.zeros(300)
    votes[:250] = 1.0
    chosen = choose_next(x, votes, 0 * votes, 30, choice)
    assert len(set(chosen.tolist())) == 30 and chosen.min() >= 250
    assert len(choose_next(x, votes, 0 * votes, 80, choice)) == 50  # there are no more
    assert len(choose_next(x, votes, 0 * votes, 80, choice, again=True)) == 80
    assert chosen.tolist() == choose_next(x, votes, 0 * votes, 30, choice).tolist()


def test_information_prefers_what_is_not_known_yet() -> None:
    x = np.zeros((41, 3))
    x[:20, 0], x[20:40, 1], x[:, 2] = 1.0, 1.0, 0.1
    x[40] = [0.0, 0.0, 0.1]  # says hardly anything
    a, b = np.zeros(41), np.zeros(41)
    a[:10], b[:10] = 5.0, 5.0  # the first weight is known well
    chosen = choose_next(x, a, b, 10, "information")
    assert ((chosen >= 20) & (chosen < 40)).all()


def test_equally_far_candidates_are_chosen_only_if_they_differ() -> None:
    x = np.random.default_rng(0).standard_normal((90, 4))
    x[:60] -= x[:60].mean(1, keepdims=True)  # the first 60 are equally far for the untuned metric
    x[:30] *= 0.01  # of these, 30 with candidates that hardly differ, the closest of all
    chosen = choose_next(x, np.zeros(90), np.zeros(90), 10, "margin")
    assert ((chosen >= 30) & (chosen < 60)).all()


def test_a_batch_does_not_ask_the_same_thing_over_and_over() -> None:
    x = np.zeros((40, 2))
    x[:20, 0], x[20:, 1] = 1.1, 1.0  # one direction tells a little more, if it is asked first
    chosen = choose_next(x, np.zeros(40), np.zeros(40), 10, "information")
    assert 3 <= (chosen < 20).sum() <= 7


def test_the_expected_information_is_the_fall_of_the_uncertainty() -> None:
    from dreamsim_guidance.training.active_choice import _information

    random = np.random.default_rng(0)
    z = random.normal(0.4, 1.3, 200_000)
    p = expit(z)
    mean = p.mean()
    entropy = lambda q: -(q * np.log(q) + (1 - q) * np.log1p(-q))  # noqa: E731
    expected = entropy(mean) - entropy(p).mean()
    assert _information(p[None], np.full(len(p), 1 / len(p)))[0] == pytest.approx(expected)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    assert _information(expit(0.4 + 1.3 * nodes)[None], weights / weights.sum())[0] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice": "best"}, "unknown choice 'best'; known: information"),
        ({"count": 0}, "count must be at least 1"),
        ({"votes_a": np.zeros(3)}, "votes must have the shape"),
        ({"votes_a": np.full(300, -1.0)}, "votes at least 0"),
        ({"x": np.zeros((300, 6))}, "finds both candidates of every triplet equally far"),
    ],
)
def test_impossible_questions_are_refused(change: dict, message: str) -> None:
    arguments = {"x": pool(), "votes_a": np.zeros(300), "votes_b": np.zeros(300), "count": 5, "choice": "information"}
    with pytest.raises(ValueError, match=message):
        choose_next(**{**arguments, **change})


def test_votes_needed_are_read_off_between_two_places() -> None:
    places = np.array([10, 20, 30, 40])
    random = np.array([0.5, 0.6, 0.65, 0.7])
    assert votes_needed(random, np.array([0.5, 0.65, 0.75, 0.75]), places) == pytest.approx(25 / 40)
    assert votes_needed(random, np.array([0.5, 0.5, 0.5, 0.6]), places) == 1.0
    assert votes_needed(random, np.array([0.8, 0.8, 0.8, 0.8]), places) == 0.25


def test_the_recipe_compares_ways_of_choosing(tmp_path: Path) -> None:
    config = compare_active_choice_tiny()
    results = config.run(tmp_path)
    assert results["layout"]["votes"] == [8, 16, 24]
    random, information = results["layout"]["choices"].values()
    assert random["gain over random"]["value"] == 0 and 0 < information["votes needed"]["value"] <= 1
    assert all(0.5 < row["people agree"]["value"] <= 1 for row in (random, information))
    assert list(random) == ["agreement", "gain over random", "votes needed", "people agree"]
    first = [curve[0] for curve in results["layout"]["curves"].values()]
    assert first[0] == first[1]  # all ways start from the same votes
    with pytest.raises(ValueError, match="choices must be different ones that begin with random"):
        ActiveChoice(choices=("information", "random"))


def test_ids_of_a_folder_are_chosen_from_votes_of_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_triplets(Path("triplets"), 8, size=32)
    assert main(["study", "choose", "triplets", "--count", "4", "--to", "ids.txt"]) == 0
    ids = Path("ids.txt").read_text().split()
    assert len(set(ids)) == 4 and "4 ids: ids.txt" in capsys.readouterr().out
    rule = Round(rounds=2, votes=1, least_votes=2, catch=0, repeats=0)
    study = make_round("triplets", "round1", participants=2, rule=rule, only=ids, progress=False).study
    assert {row.id for row in study.triplets.rows} == set(ids)
    files = simulate_votes(study, "votes1", lambda trial: 0.9)
    next_round("round1", files, "round2", progress=False)
    read_study("round1", files, "shares")
    for votes in ("round2", "shares"):
        rest = next_questions("triplets", "pocket", 8, votes=votes, progress=False)
        assert set(rest) == {f"t{i}" for i in range(8)} - set(ids)
    assert main(["study", "choose", "triplets", "--count", "9", "--votes", "round2"]) == 0
    out, err = capsys.readouterr()
    assert len(out.split()) == 4 and "only 4 triplets can be chosen" in err
    write_triplets(Path("other"), 2, size=32)
    table = Path("other/data.csv")
    table.write_text(table.read_text().replace("t0", "x0").replace("t1", "x1"))
    assert main(["study", "choose", "other", "--count", "1", "--votes", "round2"]) == 2
    assert "holds no votes on these triplets" in capsys.readouterr().err
