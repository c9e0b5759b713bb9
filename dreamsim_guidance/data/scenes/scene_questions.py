"""Questions about drawn scenes, with simulated votes: which of two variations is nearer to the reference?

Each simulated person finds a nearer than b with the probability of the Bradley-Terry model on the known factor distances,

    P(a) = 1 / (1 + exp((d_a - d_b) / temperature)),

independently of the others. As in NIGHTS, a triplet is kept if everyone agrees, and is drawn again otherwise; so among the
triplets kept with n people, a has won with probability 1 / (1 + exp(n (d_a - d_b) / temperature)). With `shares`, every triplet
is kept with its votes.

The splits share no scene. In "train", "val" and "test", one to four factors change in each candidate, never a held-out one. In
"test_held_out" the candidates agree in all other factors (none to three of them changed, in the same way), and one candidate
changes one held-out factor, which the other leaves as in the reference: the answer depends on that factor alone, and a metric
that does not see it can only guess. The held-out factors take turns.

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
"""A factor of place and one of rendering; both have enough weight for people to agree, and are visible at 64 pixels."""

PEOPLE = (6, 11)
"""Range of the random number of people per triplet: the original's filter keeps 6 or more, NIGHTS asked up to 11."""


@dataclass(frozen=True)
class Question:
    """A triplet, the votes on it, and the side on which a is shown."""

    triplet: SceneTriplet
    people: int
    votes_a: int
    a_is_left: bool
    held_out: str | None
    """The factor that decides the answer; None outside "test_held_out"."""
    prompt: str


@dataclass(frozen=True)
class SceneSet:
    """The settings of a set, which determine all its files. Raises ValueError for impossible settings."""

    triplets: int = 20_000
    """Number of triplets in all splits together, from ten to a million."""
    seed: int = 0
    size: int = 64
    """Side of the pictures in pixels, at least 16."""
    held_out: tuple[str, ...] = HELD_OUT
    shares: bool = False
    temperature: float = 0.05
    """Noise of the votes: of two distances that differ by this much, 73 of 100 people find the smaller one."""

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
        """Return triplet `number` of a split; it depends on these and the settings, not on the number of triplets."""
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
        """The random generator of one triplet.

        torch uses 32 bits of a seed, so each of three splits owns a third of them; the two test splits share theirs as even and
        odd numbers. A set is a range of numbers whose start depends on the set's seed, so that sets of different seeds differ.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split '{split}'; known: {', '.join(SPLITS)}.")
        first = int.from_bytes(hashlib.sha256(str(self.seed).encode()).digest()[:8], "big") % (2**32 // 3 - 2_000_000)
        return scene_generator(first + 2 * number + (split == "test_held_out"), split.removesuffix("_held_out"))


def changed_factors(a: Scene, b: Scene) -> tuple[str, ...]:
    """Return the factors in which two scenes have different values, whether or not that is visible."""
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
