"""The design of a study: who judges what, on which side and in which order, all derived from one seed.

A *unit* is a reference with two methods (2AFC), or with one method (JND). Each participant number has a block of trials:

assignment    units are dealt from shuffled decks, one deck after the other, so that after any number of blocks the numbers of
              votes for two units differ by at most one, and no participant gets a unit twice
sides         of every two successive votes for a unit, one shows it each way round, in random order
repeats       trials of the first third appear again in the last third, with sides swapped, to show whether people agree with
              themselves
catch trials  trials with a known answer, one at a random place in each of equal sections of the block

A study with more participants begins with the blocks of a smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from dreamsim_guidance.data.reconstructions import Reconstructions

__all__ = ["CHOICES", "DEGRADED", "MODES", "TARGET", "Mode", "Trial", "Unit", "arrange", "assign", "design", "units"]

Mode = Literal["2afc", "jnd"]
MODES: tuple[Mode, ...] = get_args(Mode)
Kind = Literal["pair", "catch", "repeat"]

TARGET = "the target"
"""What a catch trial, and every JND trial, shows in place of a method."""
DEGRADED = "the target, degraded"

CHOICES: dict[Mode, tuple[str, str]] = {"2afc": ("left", "right"), "jnd": ("same", "different")}

Unit = tuple[str, str, str]
"""Reference, method, other method; in JND the other one is the target."""


@dataclass(frozen=True)
class Trial:
    """One presentation.

    kind: "pair" for a vote, "catch" or "repeat".
    left, right: a method, TARGET or DEGRADED; in JND, what is shown first and second.
    answer: the correct choice of a catch trial; None for others.
    repeats: the id of the trial that a repeat shows again; None for others.
    """

    id: str
    participant: int
    position: int
    kind: Kind
    reference: str
    left: str
    right: str
    answer: str | None = None
    repeats: str | None = None


def units(reconstructions: Reconstructions, mode: Mode = "2afc") -> list[Unit]:
    """Return all units: each reference with each pair of methods that have reconstructed it, or with each method (JND)."""
    present = {
        stem: [name for name, pictures in reconstructions.methods.items() if stem in pictures]
        for stem in reconstructions.targets
    }
    if mode == "jnd":
        return [(stem, name, TARGET) for stem, names in present.items() for name in names]
    return [(stem, first, second) for stem, names in present.items() for first, second in combinations(names, 2)]


def assign(count: int, participants: int, trials: int, seed: int = 0) -> list[list[int]]:
    """Return for each participant `trials` different units of `count`, with votes spread evenly; see the top of this file."""
    random = np.random.default_rng([seed, 0])
    blocks: list[list[int]] = []
    deck: list[int] = []
    for _ in range(participants):
        block, deck = deck[:trials], deck[trials:]
        if len(block) < trials:
            fresh = [int(unit) for unit in random.permutation(count)]
            lacking = trials - len(block)
            dealt = set(block)
            fill = [unit for unit in fresh if unit not in dealt][:lacking]
            block += fill
            dealt = set(fill)
            deck = [unit for unit in fresh if unit not in dealt]
        blocks.append(block)
    return blocks


def design(
    chosen: Sequence[Unit],
    catch_references: Sequence[str],
    *,
    mode: Mode = "2afc",
    participants: int,
    trials: int,
    catch: int = 0,
    repeats: int = 0,
    seed: int = 0,
) -> list[list[Trial]]:
    """Return the blocks of all participants, in order.

    chosen: the units that are judged.
    catch_references: references for the catch trials, used in turn.
    participants, trials, catch, repeats: numbers of participants, and of trials, catch trials and repeats for each.

    Raises ValueError for impossible numbers, such as more trials than units, or more repeats than a third of the trials.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode '{mode}'; known: {', '.join(MODES)}.")
    if participants < 1 or trials < 1 or catch < 0 or repeats < 0 or seed < 0:
        raise ValueError("participants and trials must be at least 1, catch, repeats and seed at least 0.")
    if trials > len(chosen):
        what = "references and pairs of methods" if mode == "2afc" else "reconstructions"
        raise ValueError(f"{trials} trials for each participant are too many: there are {len(chosen)} {what}.")
    if repeats > trials // 3:
        raise ValueError(f"at most a third of the {trials} trials can be repeated, {trials // 3}, got {repeats}.")
    if catch and not catch_references:
        raise ValueError("catch trials need a reference that can be degraded visibly; there is none.")
    blocks = assign(len(chosen), participants, trials, seed)
    return arrange(chosen, blocks, catch_references, mode=mode, catch=catch, repeats=repeats, seed=seed)


def arrange(
    chosen: Sequence[Unit],
    blocks: Sequence[Sequence[int]],
    catch_references: Sequence[str],
    *,
    mode: Mode = "2afc",
    catch: int = 0,
    repeats: int = 0,
    seed: int = 0,
) -> list[list[Trial]]:
    """Return the trials of each participant, in order, when it is known who judges which units.

    blocks: for each participant the positions in `chosen` of the units to judge; a participant without any gets no trials.
    repeats: at most a third of a participant's units are repeated.

    The other arguments are those of `design`.
    """
    sides = _Sides(len(chosen), seed)
    arranged = []
    for number, block in enumerate(blocks, 1):
        random = np.random.default_rng([seed, 2, number])
        order = [block[i] for i in random.permutation(len(block))]
        pair_trials = [_show("pair", chosen[unit], sides.swapped(unit)) for unit in order]
        repeated = min(repeats, len(block) // 3)
        arranged.append(
            _block(number, pair_trials, catch_references, mode, catch, repeated, random) if pair_trials else []
        )
    return arranged


class _Sides:
    """Shows every two successive votes of a unit both ways round, in random order."""

    def __init__(self, count: int, seed: int) -> None:
        self.random = np.random.default_rng([seed, 1])
        self.first = [False] * count
        self.votes = [0] * count

    def swapped(self, unit: int) -> bool:
        if self.votes[unit] % 2 == 0:
            self.first[unit] = bool(self.random.integers(2))
        self.votes[unit] += 1
        return self.first[unit] == bool(self.votes[unit] % 2)


def _show(kind: Kind, unit: Unit, swapped: bool, answer: str | None = None) -> Trial:
    reference, left, right = unit
    if swapped:
        left, right = right, left
    return Trial("", 0, 0, kind, reference, left, right, answer)


def _block(
    number: int,
    pair_trials: list[Trial],
    catch_references: Sequence[str],
    mode: Mode,
    catch: int,
    repeats: int,
    random: np.random.Generator,
) -> list[Trial]:
    """The trials of one participant, in order and numbered."""
    trials = len(pair_trials)
    # sort keys: pairs have 0, 1, 2, ...; other trials get a number between those of the pairs they are shown between
    placed: list[tuple[float, Trial, int | None]] = [(float(i), trial, None) for i, trial in enumerate(pair_trials)]
    last_third = trials - trials // 3 - 0.5
    for first in random.permutation(trials // 3)[:repeats]:
        trial = pair_trials[int(first)]
        again = replace(trial, kind="repeat", left=trial.right, right=trial.left)
        placed.append((float(random.uniform(last_third, trials)), again, int(first)))
    for i in range(catch):
        reference = catch_references[(number - 1 + i) % len(catch_references)]
        trial = _catch(reference, mode, i + number, bool(random.integers(2)))
        placed.append((float(random.uniform(i, i + 1)) * trials / catch, trial, None))
    placed.sort(key=lambda item: item[0])
    ids = [f"p{number}t{position}" for position in range(1, len(placed) + 1)]
    of_pair = {int(key): ids[i] for i, (key, trial, _) in enumerate(placed) if trial.kind == "pair"}
    return [
        replace(
            trial,
            id=ids[i],
            participant=number,
            position=i + 1,
            repeats=None if repeated is None else of_pair[repeated],
        )
        for i, (_, trial, repeated) in enumerate(placed)
    ]


def _catch(reference: str, mode: Mode, turn: int, swapped: bool) -> Trial:
    if mode == "2afc":
        return _show("catch", (reference, TARGET, DEGRADED), swapped, CHOICES[mode][int(swapped)])
    same = turn % 2 == 0
    return _show("catch", (reference, TARGET, TARGET if same else DEGRADED), swapped, CHOICES[mode][0 if same else 1])
