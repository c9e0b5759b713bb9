"""The training loop of the pocket models, which can be killed at any moment and resumed as if nothing had happened.

A checkpoint holds the step, the learner and the optimiser. It needs no random state, since each step draws its random
numbers from a generator seeded by (seed, step). A resumed run therefore ends with the same parameters, bit for bit, on the
same machine and number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dreamsim_guidance.training.checkpoints import read_checkpoint, write_checkpoint
from dreamsim_guidance.training.fit_settings import FitSettings

__all__ = ["Learner", "fit", "step_generator"]


class Learner(nn.Module):
    """What `fit` trains: parameters, and the loss of a fresh batch that the learner draws itself."""

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        """The scalar loss of a batch drawn with `generator`; `progress` rises from 0 to 1 over the run."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each step of the optimiser."""


def fit(
    learner: Learner,
    settings: FitSettings,
    seed: int,
    path: Path,
    name: str = "training",
    report: Callable[[str], None] = lambda line: None,
    watch: Callable[[int], None] = lambda step: None,
    made_of: str = "",
) -> None:
    """Train `learner` in place, from the checkpoint at `path` if there is one.

    Args:
        learner: all its parameters that require a gradient are trained, in float32 whatever the default dtype is; the norm
            of the gradient is clipped to 1.
        settings: steps, learning rate, and how often to save and report.
        seed: seeds the random numbers of every step.
        path: file of the checkpoint, replaced at each save.
        name: shown in the progress bar and in reports.
        report: receives a line "NAME step STEP loss LOSS" every `settings.log_every` steps.
        watch: receives the number of finished steps after each save.
        made_of: a text that identifies whatever else decides the outcome, such as data and model sizes.

    Raises ValueError if the checkpoint was made with other settings, another seed, or another `made_of`.
    """
    learner.float()
    optimiser = settings.optimiser.build(learner.parameters())
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    made_for = f"{settings} seed={seed} {made_of}".strip()
    first = 0
    if path.is_file():
        saved = read_checkpoint(path, made_for)
        learner.load_state_dict(saved["learner"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    bar = tqdm(range(first, settings.steps), desc=name, initial=first, total=settings.steps, mininterval=1.0)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = settings.optimiser.rate(step, settings.steps)
        progress = step / settings.steps
        loss = learner.loss(step_generator(seed, step), progress)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        learner.after_step(progress)
        last = step + 1 == settings.steps
        if step % settings.log_every == 0 or last:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            report(f"{name} step {step} loss {loss.item():.4f}")
        if (step + 1) % settings.save_every == 0 or last:
            state = {"step": step + 1, "learner": learner.state_dict(), "optimiser": optimiser.state_dict()}
            write_checkpoint(state, path, made_for)
            watch(step + 1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator whose random numbers depend on `seed` and `step` alone."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_654_435_761 % 2**63)
