"""The whole circle on pocket models: generate triplets, let simulated people judge them in rounds, tune, and judge the result.

    generate     pictures of the pocket latent model, triplets by seed and by guidance at a chosen distance
    judge        simulated people answer the rounds of a study, through its own files
    keep         the triplets with six unanimous votes, in NIGHTS' layout
    tune         an adapter of the un-tuned pocket ensemble on the splits train and val
    evaluate     agreement with the people on the split test, before and after

A simulated person compares what an independent network, the judge of scenes that ships, reads from the pictures. With q_f the
judge's probabilities of the classes of factor f, and weights w_f,

    d(x, y) = sum_f w_f |q_f(x) - q_f(y)|_1 / 2 / sum_f w_f
    P(a is nearer) = lapse / 2 + (1 - lapse) / (1 + exp((d(x, a) - d(x, b)) / temperature))

so the probability of every answer is known, and agreement is measured against it, not against a sample of votes:

    credit of a triplet = P(the candidate that the metric finds nearer)

The judge takes part neither in generation nor in tuning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.training.tuning import Tuning

__all__ = ["WholeCircle"]


@dataclass(frozen=True)
class WholeCircle:
    """The settings of the circle."""

    tuning: Tuning
    """The adapter's training; its `data` is replaced by the judged set."""
    count: int = 32
    """Triplets of each way for each of twelve prompts."""
    steps: int = 8
    """Of the sampler."""
    guide: tuple[float, ...] = (0.15,)
    """Distances of the guided variations from the reference, one way for each; empty for triplets by seed alone."""
    people: int = 12
    """Participants of the study."""
    rounds: int = 3
    votes: int = 2
    """Votes for each triplet in a round."""
    factors: tuple[str, ...] = ("colour", "background_colour")
    """What people compare: factors that the judge of scenes reads."""
    weights: tuple[float, ...] = (1.0, 0.25)
    """Weight of each factor."""
    temperature: float = 0.1
    """Difference of distances, in [0, 1], at which 73 of 100 people find the nearer candidate, lapses aside."""
    lapse: float = 0.02
    """Share of answers that are given at random."""
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25)
    """Of the splits train, val and test."""
    seed: int = 0
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("count", "steps", "people", "rounds", "votes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.people < self.rounds * self.votes:
            raise ValueError(
                f"{self.rounds} rounds of {self.votes} votes need at least {self.rounds * self.votes} people, got "
                f"{self.people}; nobody is shown a triplet twice."
            )
        if len(self.factors) != len(self.weights) or not self.factors or any(not w > 0 for w in self.weights):
            raise ValueError(f"one weight above 0 is needed for each factor, got {self.factors} and {self.weights}.")
        if not self.temperature > 0 or not 0 <= self.lapse <= 1:
            raise ValueError(
                f"temperature must be above 0 and lapse between 0 and 1, got {self.temperature} and {self.lapse}."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Go round the circle, from what `folder` holds already, and return agreement before and after with intervals.

        Writes the folders triplets, round-1, ..., votes-1, ..., judged and tuned, and table.md.
        """
        from dreamsim_guidance.comparisons.whole_circle_run import circle  # so that recipes are listed without torch

        return circle(self, folder)
