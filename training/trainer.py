"""Training on accelerate: pieces of batches, validation, checkpoints that are exact, a bar, trackers and curves."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.processes import process_state
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.checkpoint_folder import CheckpointFolder
from dreamsim_guidance.training.comparison import Comparison
from dreamsim_guidance.training.curves import draw_curves
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.progress import RunningMeans, installed
from dreamsim_guidance.training.state import (
    Average,
    optimiser_state,
    restore_optimiser,
    restore_weights,
    trained_weights,
)
from dreamsim_guidance.training.triplet_batches import Piece, TripletBatches, all_triplets, load_batches

log = logging.getLogger(__name__)

__all__ = ["Triplets", "train"]

_ADVICE = "lower the learning rate, or set clip=1.0"

Triplets = tuple[Judgments, Dataset[Tensor]]
"""Judgments, and item i: picture i of their `images` in 8 bits (or its feature)."""


def train(
    model: Comparison, loop: Loop, training: Triplets, validation: Triplets, folder: Path, seed: int, made_for: str = ""
) -> dict[str, Any]:
    """Train `model` in place, from the newest checkpoint in `folder` on; the best weights are in checkpoints/best.pt.

    Returns step, validation loss and agreement of those, and the steps that were made. `made_for` names whatever else
    decides what is trained: a checkpoint of another run is refused with a ValueError, as is a loss that is not finite.

    An `accelerate.Accelerator` of the caller keeps its settings. The training runs on its device, and in its mixed
    precision where `loop.precision` is None.
    """
    with own_accelerate_state() as precision:
        return _Run(model, loop, training, validation, folder, seed, made_for, loop.precision or precision).run()


class _Run:
    def __init__(
        self,
        model: Comparison,
        loop: Loop,
        training: Triplets,
        validation: Triplets,
        folder: Path,
        seed: int,
        made_for: str,
        precision: str | None,
    ) -> None:
        self.accelerator = Accelerator(
            cpu=process_state().device.type == "cpu",
            mixed_precision=precision,
            log_with=installed(loop.trackers),
            project_dir=folder,
        )
        if self.accelerator.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":
            raise ValueError("precision='fp16' needs an accelerator; a CPU trains in 'no' (float32) or 'bf16'.")
        self.loop, self.folder, self.seed = loop, folder, seed
        self.checkpoints = CheckpointFolder(folder / "checkpoints", f"{made_for} seed={seed} {loop.decisive}".strip())
        self.steps, self.validate_every = loop.length(len(training[0]))
        self.validation = validation
        self.batches = TripletBatches(
            *training,
            loop.batch,
            self.steps,
            seed,
            loop.piece,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        _freeze_unused(model.to(self.accelerator.device), TripletBatches(*training, 1, 1, seed)[0][0])
        if loop.gradient_checkpointing:
            for branch in model.metric.ensemble.branches:
                branch.backbone.set_grad_checkpointing(True)  # type: ignore[operator, union-attr]
        if loop.compile:
            model.metric.ensemble.compile(dynamic=True)
        optimiser = loop.optimiser.build(model.parameters())
        self.model: nn.Module
        self.model, prepared = self.accelerator.prepare(model, optimiser)
        self.prepared, self.optimiser = prepared, prepared.optimizer
        self.average = Average(self.model, loop.average) if loop.average else None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"step": 0, "validation loss": math.inf}
        self.since_best = 0

    def run(self) -> dict[str, Any]:
        first = self._resume()
        self._start_trackers()
        main = self.accelerator.is_main_process
        bar = tqdm(total=self.steps, initial=first, desc="training", unit="step", disable=not main, mininterval=0.5)
        try:
            if first == 0:
                self._validate(0)
            self._loop(first, bar)
        finally:
            bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()
        return {name: value for name, value in self.best.items()} | {"steps": self._finished_at}

    def _loop(self, first: int, bar: Any) -> None:
        self._finished_at = first
        pieces = load_batches(self.batches, first, self.loop.workers)
        seen = RunningMeans(self.accelerator)
        for step in range(first, self.steps):
            if self.loop.patience is not None and self.since_best >= self.loop.patience:
                log.info("stopped at step %d: %d validations without a lower loss", step, self.since_best)
                self._save(step)
                break
            seen.add(*self._step(step, next(pieces)))
            done = self._finished_at = step + 1
            last = done == self.steps
            bar.update()
            if done % self.loop.log_every == 0 or last:
                row = {"step": done, **seen.take(), "learning rate": self.loop.optimiser.rate(step, self.steps)}
                if not math.isfinite(row["loss"]):
                    raise ValueError(f"the loss became {row['loss']} before step {done}; {_ADVICE}.")
                self._record(row)
                bar.set_postfix_str(
                    f"loss {row['loss']:.4f}, agreement {row['agreement']:.3f}, {row['images per second']:.0f} images/s"
                )
            if done % self.validate_every == 0 or last:
                paused = time.perf_counter()
                self._validate(done)
                seen.since += time.perf_counter() - paused
            if done % self.loop.save_every == 0 or last:
                self._save(done)

    def _step(self, step: int, pieces: list[Piece]) -> tuple[Tensor, Tensor, int]:
        """One optimiser step; its loss and right answers over this process's triplets, and its pictures."""
        self.model.train()
        accelerator, optimiser = self.accelerator, self.prepared
        for group in optimiser.param_groups:
            group["lr"] = self.loop.optimiser.rate(step, self.steps)
        torch.manual_seed(_mix(self.seed, step, accelerator.process_index))
        total = right = torch.zeros((), device=accelerator.device)
        pictures = 0
        for i, piece in enumerate(pieces):
            piece = piece.to(accelerator.device)
            waiting = i + 1 < len(pieces)
            with accelerator.no_sync(self.model) if waiting else contextlib.nullcontext():
                loss, d_a, d_b = self.model(piece.pictures, piece)
                # gradients are averaged over processes, but the weights make their sum the mean
                accelerator.backward(loss * accelerator.num_processes)
            total = total + loss.detach()
            right = right + (_credit(d_a, d_b, piece) * piece.weight).sum()
            pictures += len(piece.pictures)
        if self.loop.optimiser.clip is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), self.loop.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad()
        if self.average is not None:
            self.average.update(step)
        return total, right, pictures

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        with self.average.in_place() if self.average else contextlib.nullcontext():
            loss, right = self._judge(*self.validation)
            row = {"step": step, "validation loss": loss}
            if right is not None:
                row["validation agreement"] = right
            self._record(row)
            if not loss < self.best["validation loss"]:
                self.since_best += 1
                return
            self.best, self.since_best = row, 0
            weights = trained_weights(self.model)
        if self.accelerator.is_main_process:
            self.checkpoints.write_best({"weights": weights, **row})

    def _judge(self, judgments: Judgments, pictures: Dataset[Tensor]) -> tuple[float, float | None]:
        """Mean loss, and agreement with the majority without ties, None if there are only ties."""
        u = self._embed_all(pictures, len(judgments.images)).to(self.accelerator.device)
        loss, right = 0.0, []
        for piece in all_triplets(judgments, u):
            piece = piece.to(u.device)
            part, d_a, d_b = self.model(piece.pictures, piece, embedded=True)
            loss += float(part)
            clear = piece.votes_a != piece.votes_b
            right.append(_credit(d_a, d_b, piece)[clear])
        if not math.isfinite(loss):
            raise ValueError(f"the validation loss became {loss}; {_ADVICE}.")
        credit = torch.cat(right)
        return loss, float(credit.mean()) if len(credit) else None

    def _embed_all(self, pictures: Dataset[Tensor], count: int) -> Float[Tensor, "n d"]:
        """Unit vectors of all pictures, each made by one process, on every one."""
        self.model.eval()
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = math.ceil(count / processes)
        mine = [min(i, count - 1) for i in range(process, share * processes, processes)]
        loader = DataLoader(Subset(pictures, mine), batch_size=32, num_workers=self.loop.workers if count > 512 else 0)
        found = torch.cat([self.model(batch.to(self.accelerator.device)).float() for batch in loader])
        gathered = self.accelerator.gather(found)
        return gathered.unflatten(0, (processes, share)).transpose(0, 1).flatten(0, 1)[:count]

    def _record(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self.accelerator.is_main_process:
            log.debug("%s", json.dumps(row))
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "weights": trained_weights(self.model),
            "optimiser": optimiser_state(self.model, self.optimiser),
            "history": self.history,
            "best": self.best,
            "since_best": self.since_best,
        }
        if self.average is not None:
            with self.average.in_place():
                state["average"] = trained_weights(self.model)
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            self.checkpoints.write(step, state, self.loop.keep)
            write_json(self.folder / "history.json", self.history)
            draw_curves(self.history, self.folder / "curves.png")
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Restore the newest checkpoint that can be read; the step to go on with."""
        self._finished_at = 0
        if self.accelerator.is_main_process:
            self.checkpoints.sweep()
        saved = self.checkpoints.newest()
        if saved is None:
            return 0
        if self.average is not None:
            restore_weights(self.model, saved["average"])
            self.average = Average(self.model, self.average.momentum)
        restore_weights(self.model, saved["weights"])
        restore_optimiser(self.model, self.optimiser, saved["optimiser"])
        if self.accelerator.scaler is not None and "scaler" in saved:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.history, self.best, self.since_best = saved["history"], saved["best"], saved["since_best"]
        log.info("going on from step %d of %d", saved["step"], self.steps)
        return int(saved["step"])

    def _start_trackers(self) -> None:
        fields = {**asdict(self.loop), **asdict(self.loop.optimiser), "seed": self.seed}
        self.accelerator.init_trackers("tuning", {name: str(value) for name, value in fields.items()})


def _credit(d_a: Tensor, d_b: Tensor, piece: Piece) -> Tensor:
    """1 where the metric sides with the majority; equal distances or votes count half."""
    return 0.5 * (1 + (d_a - d_b).sign() * (piece.votes_b - piece.votes_a).sign())


def _freeze_unused(model: Comparison, piece: Piece) -> None:
    """Freeze what no gradient reaches (a final norm that is not read): DDP would wait for it forever."""
    model.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    device = next(model.parameters()).device
    few = piece.to(device)
    loss, _, _ = model(few.pictures, few)
    for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
        if gradient is None:
            parameter.requires_grad_(False)


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
