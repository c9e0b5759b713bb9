from collections import Counter

import pytest

from dreamsim_guidance.study.design import DEGRADED, TARGET, Mode, Trial, Unit, assign, design

METHODS = ("first", "second", "third")
UNITS: list[Unit] = [(f"r{i}", a, b) for i in range(8) for a, b in zip("xxy", "yzz", strict=True)]


def pairs(blocks: list[list[Trial]]) -> list[Trial]:
    return [trial for block in blocks for trial in block if trial.kind == "pair"]


def unit(trial: Trial) -> tuple[str, frozenset[str]]:
    return trial.reference, frozenset((trial.left, trial.right))


@pytest.mark.parametrize(("count", "trials"), [(24, 10), (7, 5), (5, 5), (11, 3)])
def test_votes_for_two_units_never_differ_by_more_than_one(count: int, trials: int) -> None:
    blocks = assign(count, 40, trials, seed=3)
    votes = Counter({i: 0 for i in range(count)})
    for block in blocks:
        assert len(set(block)) == len(block) == trials  # no participant sees a unit twice
        votes.update(block)
        assert max(votes.values()) - min(votes.values()) <= 1


def test_assignment_is_random_and_not_in_the_order_of_the_folders() -> None:
    assert assign(30, 1, 30)[0] != list(range(30))
    assert assign(30, 1, 30, seed=0) != assign(30, 1, 30, seed=1)
    assert {tuple(block) for block in assign(6, 6, 6)} != {tuple(assign(6, 1, 6)[0])}


@pytest.mark.parametrize("mode", ["2afc", "jnd"])
def test_the_same_seed_gives_the_same_study_and_another_seed_another_study(mode: Mode) -> None:
    def study_of(seed: int, participants: int = 4) -> list[list[Trial]]:
        return design(UNITS, ["r0", "r1"], mode=mode, participants=participants, trials=9, repeats=2, seed=seed)

    assert study_of(1) == study_of(1) != study_of(2)
    assert study_of(1, 9)[:4] == study_of(1)


def test_every_two_successive_votes_for_a_unit_show_it_both_ways_round() -> None:
    left_methods: dict[tuple[str, frozenset[str]], list[str]] = {}
    for trial in pairs(design(UNITS, ["r0"], participants=48, trials=10, seed=5)):
        left_methods.setdefault(unit(trial), []).append(trial.left)
    assert {len(lefts) for lefts in left_methods.values()} == {20}
    for lefts in left_methods.values():
        assert all(lefts[i] != lefts[i + 1] for i in range(0, 20, 2))
        assert any(lefts[i] == lefts[i + 1] for i in range(1, 19, 2))  # not merely alternating
    first = [lefts[0] == min(name) for (_, name), lefts in left_methods.items()]
    assert 0 < sum(first) < len(first)


def test_within_one_block_a_method_is_not_always_on_one_side() -> None:
    lefts = [
        sum(trial.left == "x" for trial in pairs([block])) for block in design(UNITS, [], participants=20, trials=24)
    ]
    # x is in 16 of 24 units: binomial of 16 with 1/2 in each block, mean 8
    assert min(lefts) >= 4 and max(lefts) <= 12 and abs(sum(lefts) / len(lefts) - 8) < 1.5


def test_repeats_come_later_with_sides_swapped() -> None:
    for block in design(UNITS, ["r0"], participants=30, trials=12, repeats=4, catch=3, seed=2):
        trials = {trial.id: trial for trial in block}
        again = [trial for trial in block if trial.kind == "repeat"]
        assert len(again) == 4 and len({trial.repeats for trial in again}) == 4
        for trial in again:
            first = trials[trial.repeats or ""]
            assert first.kind == "pair" and (first.reference, first.left, first.right) == (
                trial.reference,
                trial.right,
                trial.left,
            )
            assert trial.position - first.position > 12 // 3


def test_catch_trials_are_spread_over_the_block_and_know_their_answer() -> None:
    sides = Counter()
    for block in design(UNITS, ["r0", "r3"], participants=40, trials=20, repeats=0, catch=4, seed=2):
        catch = [trial for trial in block if trial.kind == "catch"]
        assert [trial.reference for trial in catch] in (["r0", "r3"] * 2, ["r3", "r0"] * 2)
        for i, trial in enumerate(catch):
            assert 6 * i - 1 <= trial.position - 1 <= 6 * i + 6  # 24 trials, four stretches of six
            assert {trial.left, trial.right} == {TARGET, DEGRADED}
            assert {"left": trial.left, "right": trial.right}[trial.answer or ""] == TARGET
            sides[trial.answer] += 1
    assert 55 < sides["left"] < 105 and sum(sides.values()) == 160


def test_half_of_the_catch_trials_of_jnd_are_identical_pairs() -> None:
    chosen: list[Unit] = [(f"r{i}", name, TARGET) for i in range(6) for name in METHODS]
    for block in design(chosen, ["r0"], mode="jnd", participants=10, trials=18, catch=4, repeats=3):
        catch = [trial for trial in block if trial.kind == "catch"]
        assert Counter(trial.answer for trial in catch) == {"same": 2, "different": 2}
        for trial in catch:
            assert {trial.left, trial.right} == ({TARGET} if trial.answer == "same" else {TARGET, DEGRADED})


def test_ids_state_only_participant_and_position() -> None:
    blocks = design(UNITS, ["r0"], participants=3, trials=6, repeats=2, catch=2)
    assert [trial.id for trial in blocks[1]] == [f"p2t{i}" for i in range(1, 11)]
    assert [trial.position for trial in blocks[2]] == list(range(1, 11))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"trials": 25}, "25 trials for each participant are too many: there are 24 references and pairs of methods"),
        ({"trials": 0}, "participants and trials must be at least 1"),
        ({"trials": 9, "repeats": 4}, "at most a third of the 9 trials can be repeated, 3, got 4"),
        ({"trials": 9, "repeats": -1}, "catch, repeats and seed at least 0"),
        ({"participants": 0}, "participants and trials must be at least 1"),
    ],
)
def test_impossible_numbers_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        design(UNITS, ["r0"], **{"participants": 4, "trials": 9, **numbers})
