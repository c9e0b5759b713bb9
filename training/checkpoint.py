"""Training that can be killed at any moment and goes on as if nothing had happened.

A checkpoint holds the step, the learner and the optimiser. Random numbers need no place in it, since every step draws
its own from a generator seeded by (seed, step); so a resumed run ends with the same parameters, bit by bit, on the same
machine and number of threads. Files are written beside their name and moved over it, so that they are whole or absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.training.step_schedule import Schedule

__all__ = ["Learner", "Schedule", "fit", "read_checkpoint", "step_generator", "write_checkpoint"]


class Learner(Protocol):
    """A module with a loss of its own: what is trained, and how."""

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        """The loss of one fresh batch; `progress` goes from 0 to 1 over the run."""

    def after_step(self, progress: float) -> None:
        """Called when the optimiser has stepped."""


def fit(
    learner: nn.Module,
    schedule: Schedule,
    seed: int,
    path: Path,
    name: str = "training",
    report: Callable[[str], None] = lambda line: None,
    watch: Callable[[int], None] = lambda step: None,
    settings: str = "",
) -> None:
    """Train in place, from the checkpoint at `path` if there is one; `watch(step)` is called after every saved step.

    Raises ValueError if the checkpoint belongs to another schedule, seed, or other `settings` (whatever else decides
    what is trained).
    """
    optimiser = schedule.optimiser.build(learner.parameters())
    trained = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    made_for = f"{schedule} seed={seed} {settings}".strip()
    first = 0
    if path.is_file():
        saved = read_checkpoint(path)
        if saved["made_for"] != made_for:
            raise ValueError(f"'{path}' is a checkpoint of another run ({saved['made_for']}); give an empty folder.")
        learner.load_state_dict(saved["learner"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    bar = tqdm(range(first, schedule.steps), desc=name, initial=first, total=schedule.steps, mininterval=1.0)
    for step in bar:
        for group in optimiser.param_groups:
            group["lr"] = schedule.optimiser.rate(step, schedule.steps)
        progress = step / schedule.steps
        loss = learner.loss(step_generator(seed, step), progress)  # type: ignore[operator]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        learner.after_step(progress)  # type: ignore[operator]
        if step % schedule.log_every == 0 or step + 1 == schedule.steps:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            report(f"{name} step {step} loss {loss.item():.4f}")
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            state = {"step": step + 1, "learner": learner.state_dict(), "optimiser": optimiser.state_dict()}
            write_checkpoint({**state, "made_for": made_for}, path)
            watch(step + 1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, whatever came before it."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_654_435_761 % 2**63)


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    with writing(path, ".part") as temporary, temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)
