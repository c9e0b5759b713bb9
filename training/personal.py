"""Tune a metric to one person: from the votes of a study to an adapter, and its agreement with votes that it has not seen.

The votes are divided by reference, so that the pictures of held-out votes are new. Some validate, and decide the step whose
weights are kept; others are for the final figures. Few votes call for a small adapter that stays near the un-tuned metric.

This module imports no torch, so that recipes are listed and shown at once; the work is in `personal_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.training.tuning import Tuning

__all__ = ["PersonalTuning", "SimulatedPeople"]


@dataclass(frozen=True)
class PersonalTuning:
    """The settings of tuning to a person, or to all people of a study."""

    study: Path
    """The folder of a 2AFC study that `study make` wrote; without `votes`, a folder of judgments that `study read` wrote."""
    tuning: Tuning
    """What is tuned, and how; its `data` is replaced by the person's votes."""
    votes: tuple[Path, ...] = ()
    """Files that people sent back, CSV or JSON, or folders of them."""
    person: str | None = None
    """Whose votes count: a session's identifier or a participant's number; by default those of all people together."""
    validation: float = 0.15
    """Share of the references whose votes decide which step is kept."""
    held_out: float = 0.25
    """Share of the references whose votes are for the final figures alone."""
    seed: int = 0
    """Decides which references are held out."""

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 < self.held_out < 1 and self.validation + self.held_out < 1):
            raise ValueError(
                "validation and held_out are shares of the references above 0 whose sum is below 1, got "
                f"{self.validation} and {self.held_out}."
            )
        if self.person is not None and not self.votes:
            raise ValueError(
                "one person's votes are found in the files of votes only; give votes, or leave person out."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Write into `folder` the files of `Tuning.run`, judgments/ with the votes and pictures, and table.md.

        The metric is then `DreamSim(folder / "model.safetensors")`, and the adapter is in adapter/. Returns the agreement with
        the held-out votes before and after, and the difference, with 95 % intervals by reference, and the figures of the
        training.

        Raises ValueError for a study of another kind, a person who did not vote or was left out by the study's rules, and votes
        on too few references; errors of `read_study` and of `Tuning.run`.
        """
        from dreamsim_guidance.training.personal_run import tune_personal

        return tune_personal(self, folder)


@dataclass(frozen=True)
class SimulatedPeople:
    """A study of drawn scenes, answered by simulated people who weigh factors differently, and an adapter for each of them."""

    personal: PersonalTuning
    """How each person's metric is tuned; study, votes and person are replaced."""
    people: tuple[str, ...]
    """The factor that each person looks at above all."""
    others: float
    """Weight of the mean distance in all factors beside that in the person's own factor."""
    references: int
    """Scenes, each with four variations to be compared in pairs."""
    trials: int
    """Votes of each person, and a few more whose answers are known."""
    temperature: float
    """Noise of the votes: of two distances that differ by this much, 73 of 100 votes find the smaller one."""
    seed: int

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the study, the votes, a run of `PersonalTuning` for each person, and table.md.

        Returns, for each person's metric and for the un-tuned one, the agreement with the held-out votes of every person.
        """
        from dreamsim_guidance.training.simulated_people import tune_simulated_people

        return tune_simulated_people(self, folder)
