"""Descend from several starts per sample, keep the better half of them, then the best; every row keeps its best step.

The loss of a step belongs to that step's image, and its last value is rarely its lowest, so that returning the last image
would lose quality. Rows do not interact: the sum over them is differentiated, and each keeps its own best step. A batch
therefore gives what its samples give alone. Successive halving drops the worse half of the starts after each of the first
rungs; the survivors go on as if they had been alone.

Numbers are read back from the device once in a block of steps, never at each step.

Jamieson, Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016 (halving).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm import tqdm

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.inversion.graph import check_gradients
from dreamsim_guidance.inversion.optimisers import LBFGS, Elementwise, adam, clipped, sgd
from dreamsim_guidance.inversion.problem import Leaves, Problem

__all__ = ["BLOCK", "Best", "Descent", "Plan", "rows_by_step"]

BLOCK = 25
"""Steps between two readings of the device: for the bar, the history, and whether every sample has stopped."""

RUNG = 0.15
"""Share of the steps after which the worse half of the starts is dropped, again and again until one is left."""

_OPTIMISERS: dict[str, Callable[[Leaves], Elementwise | LBFGS]] = {"adam": adam, "sgd": sgd, "lbfgs": LBFGS}


@dataclass(frozen=True)
class Plan:
    """How to descend; see `invert`. `rate` is the step size by step, `label` the bar's, None without a bar.

    fingerprint: losses of the first sample of the prior, or of the start, by which a checkpoint knows its run.
    """

    steps: int
    rate: Callable[[int], float]
    optimiser: str = "adam"
    clip: float | None = None
    stop_below: float | None = None
    patience: int | None = None
    shared: bool = False
    checkpoint: Path | None = None
    fingerprint: Tensor | None = None
    checkpoint_every: int = 100
    callback: Callable[[int, Tensor, Tensor], None] | None = None
    label: str | None = None


@dataclass
class Best:
    """The best step of every row so far: its image, leaves, loss and number."""

    images: Tensor
    leaves: Leaves
    loss: Tensor
    step: Tensor

    @classmethod
    def before(cls, images: Tensor, leaves: Leaves, values: Tensor) -> Best:
        """Before the first step; a loss that is not finite counts as infinite."""
        copies = {name: leaf.clone() for name, leaf in leaves.items()}
        return cls(
            images.clone(), copies, torch.full_like(values, torch.inf), torch.zeros_like(values, dtype=torch.int64)
        )

    def update(self, step: int, images: Tensor, leaves: Leaves, values: Tensor, active: Tensor, shared: bool) -> None:
        """Take the rows that improved; where samples share leaves, all rows if the sum over them does."""
        together = (values.sum() < self.loss.sum()).expand_as(values)
        better = together if shared else (values < self.loss) & active
        self.images = _where(better, images, self.images)
        for name, leaf in leaves.items():
            self.leaves[name] = (
                torch.where(better.all(), leaf, self.leaves[name])
                if shared
                else _where(better, leaf, self.leaves[name])
            )
        self.loss = torch.where(better, values, self.loss)
        self.step = self.step.masked_fill(better, step)

    def keep(self, rows: Tensor) -> None:
        self.images, self.loss, self.step = self.images[rows], self.loss[rows], self.step[rows]
        self.leaves = {name: leaf[rows] for name, leaf in self.leaves.items()}


class Descent:
    """One descent, of `restarts * batch` rows at first and `batch` in the end; `run` carries it out.

    starts: the leaves of all rows, in the prior's units; they are not changed.
    """

    def __init__(self, problem: Problem, plan: Plan, starts: Leaves, restarts: int = 1) -> None:
        self.problem, self.plan, self.restarts = problem, plan, restarts
        self.units = {name: leaf.detach().clone().requires_grad_() for name, leaf in starts.items()}
        self.optimiser = _OPTIMISERS[plan.optimiser](self.units)
        self.step = 0
        self.best: Best | None = None
        self.active: Tensor | None = None
        """The rows that have not stopped."""
        self.lost = torch.zeros(restarts * problem.batch, dtype=torch.bool, device=next(iter(starts.values())).device)
        """The rows that stopped because their loss was not finite."""
        self.blocks: list[dict[str, Tensor]] = []
        self._pending: list[dict[str, Tensor]] = []

    def run(self) -> Best:
        """Descend to the last step, or until every sample has stopped."""
        plan = self.plan
        if plan.checkpoint is not None and plan.checkpoint.exists():
            self._restore(torch.load(plan.checkpoint, map_location="cpu", weights_only=True))
        bar = tqdm(total=plan.steps + 1, initial=self.step, desc=plan.label, disable=plan.label is None, unit="step")
        with bar:
            while self.step <= plan.steps:
                gradients, total = self._evaluate()
                if (self.step % BLOCK == 0 or self.step == plan.steps) and not self._look(bar):
                    break
                if self.restarts > 1 and self.step > 0 and self.step % _rung(self.plan.steps) == 0:
                    rows = self._halve()
                    total = total[rows]
                    gradients = {name: None if g is None else g[rows] for name, g in gradients.items()}
                if self.step < plan.steps:
                    self._advance(total, gradients)
                self.step += 1
                bar.update()
                due = self.step == 1 or self.step % plan.checkpoint_every == 0
                if plan.checkpoint is not None and due and self.step < plan.steps:
                    self._save(plan.checkpoint)
            self._flush()
            if self.restarts > 1:
                self._halve(to=1)
        assert self.best is not None
        return self.best

    @property
    def history(self) -> dict[str, Tensor]:
        """Every term at every step that was evaluated, `(steps, rows)`, on the CPU."""
        return {name: torch.cat([block[name] for block in self.blocks]) for name in self.blocks[0]}

    def _evaluate(self) -> tuple[dict[str, Tensor | None], Tensor]:
        """Evaluate the rows, record them, and return the gradient of each leaf and the detached totals."""
        differentiable = self.step < self.plan.steps
        with torch.set_grad_enabled(differentiable):
            leaves = self.problem.units.leaves(self.units)
            images, total, terms = self.problem.evaluate(leaves, self.step)
            summed = total.sum()
        values, detached = total.detach(), {name: leaf.detach() for name, leaf in leaves.items()}
        if self.best is None or self.active is None:
            self.best = Best.before(images.detach(), detached, values)
            self.active = torch.ones_like(values, dtype=torch.bool)
        self.best.update(self.step, images.detach(), detached, values, self.active, self.plan.shared)
        gone = ~self.active
        self._pending.append(
            {name: term.masked_fill(gone, math.nan) for name, term in {**terms, "loss": values}.items()}
        )
        if self.plan.callback is not None:
            rows = self._ranked(values.nan_to_num(nan=math.inf), 1)
            self.plan.callback(self.step, images.detach()[rows], values[rows])
        gradients: tuple[Tensor | None, ...] = (None,) * len(self.units)
        if differentiable:
            if total.requires_grad:
                # `backward` would also fill the gradients of a loss whose own weights are trainable
                gradients = torch.autograd.grad(summed, list(self.units.values()), allow_unused=True)
            check_gradients(gradients, images, lambda: self.problem.render(self.problem.units.leaves(self.units)))
        return dict(zip(self.units, gradients, strict=True)), values

    def _advance(self, total: Tensor, gradients: dict[str, Tensor | None]) -> None:
        if self.plan.clip is not None:
            gradients = clipped(gradients, self.plan.clip)
        self.optimiser.step(total, gradients, self.plan.rate(self.step))
        if self.problem.project_ is not None:
            with torch.no_grad():
                leaves = {name: leaf.clone() for name, leaf in self.problem.units.leaves(self.units).items()}
                self.problem.project_(leaves)
                for name, u in self.problem.units.units(leaves).items():
                    self.units[name].data = u

    def _look(self, bar: Any) -> bool:
        """Read the last block back; return whether any row still goes on."""
        assert self.best is not None and self.active is not None
        values = self._pending[-1]["loss"]
        if not self.optimiser.recovers:
            self.lost |= self.active & ~values.isfinite()
            self.active = self.active & ~self.lost
        if self.plan.stop_below is not None:
            reached = (self.best.loss <= self.plan.stop_below).view(self.restarts, -1).any(0)
            self.active = self.active & ~reached.repeat(self.restarts)
        if self.plan.patience is not None:
            self.active = self.active & (self.step - self.best.step < self.plan.patience)
        self._flush()
        if not bar.disable:
            last = {name: float(block[-1].nanmean()) for name, block in self.blocks[-1].items()}
            bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in last.items()), refresh=False)
        return bool(self.active.any())

    def _flush(self) -> None:
        """Copy the recorded values to the CPU."""
        if self._pending:
            self.blocks.append(
                {name: torch.stack([row[name] for row in self._pending]).cpu() for name in self._pending[0]}
            )
            self._pending = []

    def _ranked(self, losses: Tensor, count: int) -> Tensor:
        """The rows of the `count` best starts of every sample."""
        batch = len(losses) // self.restarts
        chosen = losses.view(self.restarts, batch).topk(count, dim=0, largest=False).indices
        return (chosen * batch + torch.arange(batch, device=losses.device)).flatten()

    def _halve(self, to: int | None = None) -> Tensor:
        """Keep the better half of the starts of every sample, or `to` of them, with all that belongs to them."""
        assert self.best is not None and self.active is not None
        count = math.ceil(self.restarts / 2) if to is None else to
        rows = self._ranked(self.best.loss, count)
        self._flush()
        self.optimiser.keep(rows)
        self.best.keep(rows)
        self.active, self.lost = self.active[rows], self.lost[rows]
        self.blocks = [{name: block[:, rows.cpu()] for name, block in blocks.items()} for blocks in self.blocks]
        self.restarts = count
        return rows

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must agree in with the run that goes on from it."""
        plan = self.plan
        shapes = {name: list(leaf.shape[1:]) for name, leaf in self.units.items()}
        rates = [plan.rate(step) for step in (0, plan.steps // 2)]
        return {
            "steps": plan.steps,
            "optimiser": plan.optimiser,
            "clip": plan.clip,
            "rates": rates,
            "leaves": shapes,
            "batch": self.problem.batch,
        }

    @property
    def _fingerprint(self) -> Tensor:
        assert self.plan.fingerprint is not None
        return self.plan.fingerprint.cpu()

    def _save(self, file: Path) -> None:
        assert self.best is not None
        self._flush()
        state = {
            "settings": self._settings(),
            "fingerprint": self._fingerprint,
            "step": self.step,
            "restarts": self.restarts,
            "units": {name: leaf.detach() for name, leaf in self.units.items()},
            "optimiser": self.optimiser.state(),
            "best": vars(self.best),
            "active": self.active,
            "lost": self.lost,
            "blocks": self.blocks,
        }
        with writing(file) as temporary:
            torch.save(state, temporary)

    def _restore(self, state: dict[str, Any]) -> None:
        settings, fingerprint = state["settings"], state["fingerprint"]
        expected = self._fingerprint
        difference = None
        if settings != self._settings():
            difference = f"with {settings}, not {self._settings()}"
        elif not torch.allclose(fingerprint, expected, rtol=1e-3, atol=1e-6, equal_nan=True):
            losses = fingerprint.tolist()
            difference = f"with first losses {losses}, not {expected.tolist()}: another loss, generator or seed"
        if difference is not None:
            raise ValueError(
                f"{self.plan.checkpoint} belongs to another run, {difference}; remove it, or give another file."
            )
        device = self.lost.device
        best, self.active, self.lost = tree_map(lambda t: t.to(device), (state["best"], state["active"], state["lost"]))
        self.best = Best(**best)
        self.step, self.restarts, self.blocks = state["step"], state["restarts"], state["blocks"]
        for name, leaf in self.units.items():
            leaf.data = state["units"][name].to(device)
        self.optimiser.restore(state["optimiser"])


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in these rows, `old` in the others."""
    return torch.where(rows.view(-1, *(1,) * (new.ndim - 1)), new, old)


def _rung(steps: int) -> int:
    """After how many steps the worse half of the starts is dropped."""
    return max(1, round(RUNG * steps))


def rows_by_step(steps: int, restarts: int) -> list[int]:
    """How many starts of a sample descend at each of the steps, which is what a run costs beside its search."""
    rungs = [step // _rung(steps) for step in range(steps)]
    return [math.ceil(restarts / 2**rung) for rung in rungs]
