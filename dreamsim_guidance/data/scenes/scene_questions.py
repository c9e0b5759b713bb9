"""Questions about drawn scenes, with simulated votes: which of two variations is nearer to the reference?

A person finds a nearer than b with the probability of Bradley and Terry's model on the known distances of the factors,

    P(a) = 1 / (1 + exp((d_a - d_b) / temperature)),

independently of all others. As in NIGHTS, a triplet is kept if everyone asked agrees, and others are drawn again; so of
those kept with n people, a has won with probability 1 / (1 + exp(n (d_a - d_b) / temperature)). With `shares`, every
triplet is kept with the votes it got.

The splits share no scene. "train", "val" and "test" change one to four factors in each candidate, never one that is
held out. In "test_held_out" both candidates agree in all other factors (none to three of them changed, in the same way)
and one of the two changes one held-out factor, which the other leaves as it is in the reference: the answer rests on
that factor alone, and a metric that is blind to it can only guess. The held-out factors take turns.

Bradley and Terry, Rank analysis of incomplete block designs, Biometrika 1952; Fu et al., DreamSim, NeurIPS 2023.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dreamsim_guidance.data.scenes.captions import caption
from dreamsim_guidance.data.scenes.scene import FACTORS, Scene, factor_distance, sample_scene, scene_generator
from dreamsim_guidance.data.scenes.triplets import SceneTriplet
from dreamsim_guidance.data.scenes.variations import vary

__all__ = ["HELD_OUT", "PEOPLE", "SPLITS", "Question", "SceneSet", "changed_factors"]

SPLITS = ("train", "val", "test", "test_held_out")
"""In the order of the rows: seven tenths of the triplets are for training, one tenth for each other split."""

HELD_OUT = ("layout", "style")
"""One factor of place and one of rendering, both heavy enough for people to agree and visible at 64 pixels."""

PEOPLE = (6, 11)
"""How many people are asked about a triplet, at random: the original's filter keeps 6 and more, NIGHTS asked up to 11."""


@dataclass(frozen=True)
class Question:
    """A triplet, the votes on it, and how it is shown."""

    triplet: SceneTriplet
    people: int
    votes_a: int
    a_is_left: bool
    held_out: str | None
    """The factor on which the answer rests; None outside "test_held_out"."""
    prompt: str


@dataclass(frozen=True)
class SceneSet:
    """What decides every byte of a set. Raises ValueError for settings of which no set can be made."""

    triplets: int = 20_000
    """Of all splits together, from ten to a million."""
    seed: int = 0
    size: int = 64
    """Side of the pictures in pixels, at least 16."""
    held_out: tuple[str, ...] = HELD_OUT
    shares: bool = False
    temperature: float = 0.05
    """Noise of the votes: distances that differ by this much are told apart by 73 of 100 people."""

    def __post_init__(self) -> None:
        if not 10 <= self.triplets <= 1_000_000:
            raise ValueError(f"triplets must lie between 10 and 1000000, got {self.triplets}.")
        if self.seed < 0 or self.size < 16 or not 0 < self.temperature < math.inf:
            raise ValueError(
                "seed must be at least 0, size at least 16 and temperature greater than 0, "
                f"got {self.seed}, {self.size} and {self.temperature}."
            )
        if unknown := [name for name in self.held_out if name not in FACTORS]:
            raise ValueError(f"unknown factor '{unknown[0]}' to hold out; known: {', '.join(FACTORS)}.")
        if not 1 <= len(set(self.held_out)) == len(self.held_out) < len(FACTORS):
            raise ValueError(
                f"between 1 and {len(FACTORS) - 1} different factors can be held out, got {', '.join(self.held_out) or 'none'}."
            )

    def counts(self) -> dict[str, int]:
        """Triplets of each split."""
        tenth = self.triplets // 10
        return dict(zip(SPLITS, (self.triplets - 3 * tenth, tenth, tenth, tenth), strict=True))

    def question(self, split: str, number: int) -> Question:
        """Triplet `number` of a split; it depends on the settings and on these two, not on how many there are."""
        generator = self._generator(split, number)
        held_out = self.held_out[number % len(self.held_out)] if split == "test_held_out" else None
        while True:
            triplet = self._triplet(held_out, generator)
            people = int(torch.randint(PEOPLE[0], PEOPLE[1] + 1, (), generator=generator))
            gap = (triplet.distance_b - triplet.distance_a) / self.temperature
            finds_a = 0.5 + 0.5 * math.tanh(0.5 * gap)  # the logistic function, without overflow
            votes_a = int((torch.rand(people, generator=generator, dtype=torch.float64) < finds_a).sum())
            if gap != 0 and (self.shares or votes_a in (0, people)):
                break
        a_is_left = bool(torch.rand((), generator=generator) < 0.5)
        return Question(triplet, people, votes_a, a_is_left, held_out, caption(triplet.reference, generator, keep=1.0))

    def _triplet(self, held_out: str | None, generator: torch.Generator) -> SceneTriplet:
        reference = sample_scene(generator)
        free = [name for name in FACTORS if name not in self.held_out]
        if held_out is None:
            a, b = (_variation(reference, free, 1, generator) for _ in range(2))
        else:
            same = _variation(reference, free, 0, generator)
            a, b = vary(same, (), 1.0, generator), vary(same, held_out, _amount(generator), generator)
            if torch.rand((), generator=generator) < 0.5:
                a, b = b, a
        return SceneTriplet(reference, a, b, factor_distance(reference, a), factor_distance(reference, b))

    def _generator(self, split: str, number: int) -> torch.Generator:
        """Of the scenes of one number: torch uses 32 bits of a seed, so a third of these belongs to each of three splits.

        The two test splits take even and odd numbers in turn; a set is a stretch of numbers that begins where its
        seed says, and sets of other seeds are others.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split '{split}'; known: {', '.join(SPLITS)}.")
        first = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:8], "big") % (2**32 // 3 - 2_000_000)
        return scene_generator(first + 2 * number + (split == "test_held_out"), split.removesuffix("_held_out"))


def changed_factors(a: Scene, b: Scene) -> tuple[str, ...]:
    """The factors in which two scenes were given other values, whether or not that can be seen."""
    parts = {"background": ("background", "background_colour")}
    return tuple(
        name for name in FACTORS if any(getattr(a, part) != getattr(b, part) for part in parts.get(name, (name,)))
    )


def _variation(scene: Scene, factors: Sequence[str], least: int, generator: torch.Generator) -> Scene:
    """`least` to `least` + 3 of the factors changed by one amount, as in `random_variation`."""
    count = int(torch.randint(least, least + 4, (), generator=generator))
    chosen = torch.randperm(len(factors), generator=generator)[:count].tolist()
    return vary(scene, [factors[i] for i in chosen], _amount(generator), generator)


def _amount(generator: torch.Generator) -> float:
    return 0.1 + 0.9 * float(torch.rand((), generator=generator))
