"""A metric of one's own: tuned to the votes of one person in a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.personal import PersonalTuning, SimulatedPeople
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig


@recipe
def tune_personal() -> PersonalTuning:
    """Tune a small adapter to the votes of a study, or of one person in it: study=FOLDER votes=FILES person=NUMBER.

    Not run on a real person's votes; `tune-simulated-people` has figures.
    """
    return PersonalTuning(
        study=Path("study"),
        tuning=Tuning(
            data=Path("judgments"),
            model="pocket",
            lora=LoRA(rank=4, alpha=8.0, dropout=0.1),
            loss=VoteLossConfig("logistic", temperature=0.05),
            loop=Loop(
                optimiser=Optimiser(
                    kind="adamw", learning_rate=3e-3, weight_decay=0.05, schedule="cosine", warmup=5, clip=1.0
                ),
                batch=32,
                steps=60,
                validate_every=10,
                save_every=20,
                workers=0,
            ),
            normalize_embeds=True,
            seed=0,
        ),
    )


@recipe
def tune_simulated_people() -> SimulatedPeople:
    """Tune the pocket ensemble to three simulated people who look at colour, layout and background, and cross their votes.

    Agreement with the held-out votes of the same person is 75.3, 74.5 and 78.1 %, with the un-tuned ensemble 74.7, 64.6 and
    75.5 %, and with another person's adapter at most 70.8, 65.8 and 71.5 %. It took 11 minutes on one of 2 cores of an AMD
    EPYC that had much other work, torch 2.14.1.
    """
    return SimulatedPeople(
        personal=tune_personal(),
        people=("colour", "layout", "background"),
        others=0.5,
        references=240,
        trials=600,
        temperature=0.05,
        seed=0,
    )


@recipe
def tune_simulated_people_tiny() -> SimulatedPeople:
    """Tune to two simulated people for two steps in seconds, for tests and to see what a run folder holds."""
    personal = tune_personal()
    loop = replace(personal.tuning.loop, batch=4, steps=2, validate_every=1, save_every=1)
    return replace(
        tune_simulated_people(),
        personal=replace(personal, tuning=replace(personal.tuning, loop=loop)),
        people=("colour", "layout"),
        references=12,
        trials=40,
    )
