"""The training loop on accelerate: batches in pieces, validation, exact resumption, a progress bar, trackers and curves."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Sequence
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

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.processes import process_state
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.checkpoints import CheckpointFolder
from dreamsim_guidance.training.curves import draw_curves
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.metric_with_loss import MetricWithLoss, freeze_unused
from dreamsim_guidance.training.progress import RunningMeans, installed
from dreamsim_guidance.training.state import restore_training, trained_weights, training_state
from dreamsim_guidance.training.triplet_batches import Piece, TripletBatches, TripletSet, all_triplets, load_batches
from dreamsim_guidance.training.weight_average import SwappedAverage

log = logging.getLogger(__name__)

__all__ = ["train"]

_ADVICE = "lower the learning rate, or set clip=1.0"


def train(
    model: MetricWithLoss,
    loop: Loop,
    training: Sequence[TripletSet],
    validation: Sequence[TripletSet],
    folder: Path,
    seed: int,
    made_for: str = "",
) -> dict[str, Any]:
    """Train `model` in place, from the newest checkpoint in `folder` on; the best weights are in checkpoints/best.pt.

    The best weights are those with the lowest validation loss; with an adversary, which that loss does not see, the last ones.

    A caller's `accelerate.Accelerator` keeps its settings. The training uses its device and, where `loop.precision` is
    None, its mixed precision.

    Args:
        model: its parameters that require a gradient are trained.
        loop: length, batches, optimiser, and what is kept.
        training, validation: one or several sets of judgments with their pictures, the same sets in the same order.
        folder: receives checkpoints/, history.json and curves.png.
        seed: decides the order of the triplets and all random numbers.
        made_for: a text that identifies whatever else decides the outcome, such as the model and the data.

    Returns step, validation loss and validation agreement of the best weights, and `steps`, the number of steps made. The
    best weights are those with the lowest validation loss. With several sets, loss and agreement are the means over the sets,
    and "validation agreement on NAME" is that of each.

    Raises ValueError for a checkpoint of another run, a loss that is not finite, and fp16 on a CPU.
    """
    with own_accelerate_state() as precision:
        return _Run(model, loop, training, validation, folder, seed, made_for, loop.precision or precision).run()


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        model: MetricWithLoss,
        loop: Loop,
        training: Sequence[TripletSet],
        validation: Sequence[TripletSet],
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
        self.keep_last = model.adversary is not None
        self.checkpoints = CheckpointFolder(folder / "checkpoints", f"{made_for} seed={seed} {loop.decisive}".strip())
        self.steps, self.validate_every = loop.length(sum(len(s.judgments) for s in training))
        self.validation = validation
        self.batches = TripletBatches(
            training,
            loop.batch,
            self.steps,
            seed,
            loop.piece,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            loop.pictures,
        )
        model.metric.ensemble.unstack()  # saved states need parameters with the names of the towers
        freeze_unused(model.to(self.accelerator.device), TripletBatches(training, 1, 1, seed)[0][0])
        if loop.gradient_checkpointing:
            for branch in model.metric.ensemble.branches:
                branch.backbone.set_grad_checkpointing(True)  # type: ignore[operator, union-attr]
        if loop.compile:
            model.metric.ensemble.compile(dynamic=True)
        optimiser = loop.optimiser.build(model.parameters())
        self.model: nn.Module
        self.model, prepared = self.accelerator.prepare(model, optimiser)
        self.prepared, self.optimiser = prepared, prepared.optimizer
        self.average = SwappedAverage(self.model, loop.average) if loop.average else None
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
        return self.best | {"steps": self._finished_at}

    def _loop(self, first: int, bar: Any) -> None:
        self._finished_at = first
        pieces = load_batches(self.batches, first, self.loop.workers)
        means = RunningMeans(self.accelerator)
        for step in range(first, self.steps):
            if self.loop.patience is not None and self.since_best >= self.loop.patience:
                log.info("stopped at step %d: %d validations without a lower loss", step, self.since_best)
                self._save(step)
                break
            means.add(*self._step(step, next(pieces)))
            done = self._finished_at = step + 1
            last = done == self.steps
            bar.update()
            if done % self.loop.log_every == 0 or last:
                row = {"step": done, **means.take(), "learning rate": self.loop.optimiser.rate(step, self.steps)}
                if not math.isfinite(row["loss"]):
                    raise ValueError(f"the loss became {row['loss']} before step {done}; {_ADVICE}.")
                self._record(row)
                bar.set_postfix_str(
                    f"loss {row['loss']:.4f}, agreement {row['agreement']:.3f}, {row['images per second']:.0f} images/s"
                )
            if done % self.validate_every == 0 or last:
                paused = time.perf_counter()
                self._validate(done)
                means.since += time.perf_counter() - paused
            if done % self.loop.save_every == 0 or last:
                self._save(done)

    def _step(self, step: int, pieces: list[Piece]) -> tuple[Tensor, Tensor, int]:
        """Make one step of the optimiser.

        Returns this process's part of the batch's mean loss and of its agreement, and the number of its pictures.
        """
        self.model.train()
        accelerator, optimiser = self.accelerator, self.prepared
        for group in optimiser.param_groups:
            group["lr"] = self.loop.optimiser.rate(step, self.steps)
        torch.manual_seed(_mix(self.seed, step, accelerator.process_index))
        loss_sum = agreement = torch.zeros((), dtype=torch.float32, device=accelerator.device)
        pictures = 0
        for i, piece in enumerate(pieces):
            piece = piece.to(accelerator.device)
            last = i + 1 == len(pieces)
            with contextlib.nullcontext() if last else accelerator.no_sync(self.model):
                loss, d_a, d_b = self.model(piece.pictures, piece)
                # accelerate averages gradients over processes; with our weights their sum is the batch's mean
                accelerator.backward(loss * accelerator.num_processes)
            loss_sum = loss_sum + loss.detach()
            agreement = agreement + (_credit(d_a, d_b, piece) * piece.weight).sum()
            pictures += len(piece.pictures)
        if self.loop.optimiser.clip is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), self.loop.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad()
        if self.average is not None:
            self.average.update(step)
        return loss_sum, agreement, pictures

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        with self.average.in_place() if self.average else contextlib.nullcontext():
            measured = [self._measure(judged, number) for number, judged in enumerate(self.validation)]
            row = {"step": step, "validation loss": _mean([loss for loss, _ in measured])}
            agreements = {
                s.name: value for s, (_, value) in zip(self.validation, measured, strict=True) if value is not None
            }
            if agreements:
                row["validation agreement"] = _mean(list(agreements.values()))
            if len(self.validation) > 1:
                row |= {f"validation agreement on {name}": value for name, value in agreements.items()}
            self._record(row)
            if not (self.keep_last or row["validation loss"] < self.best["validation loss"]):
                self.since_best += 1
                return
            self.best, self.since_best = row, 0
            weights = trained_weights(self.model)
        if self.accelerator.is_main_process:
            self.checkpoints.write_best({"weights": weights, **row})

    def _measure(self, judged: TripletSet, number: int) -> tuple[float, float | None]:
        """Mean loss on set `number`, and agreement with the majority without ties (None if there are only ties)."""
        u = self._embed_all(judged.pictures, len(judged.judgments.images)).to(self.accelerator.device)
        loss, credits = 0.0, []
        for piece in all_triplets(judged.judgments, u, number=number):
            piece = piece.to(u.device)
            part, d_a, d_b = self.model(piece.pictures, piece, embedded=True)
            loss += float(part)
            untied = piece.votes_a != piece.votes_b
            credits.append(_credit(d_a, d_b, piece)[untied])
        if not math.isfinite(loss):
            raise ValueError(f"the validation loss became {loss}; {_ADVICE}.")
        credit = torch.cat(credits)
        return loss, float(credit.mean()) if len(credit) else None

    def _embed_all(self, pictures: Dataset[Tensor], count: int) -> Float[Tensor, "n d"]:
        """Unit embeddings of all pictures on every process; each process computes a share."""
        self.model.eval()
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = math.ceil(count / processes)
        positions = [min(i, count - 1) for i in range(process, share * processes, processes)]
        workers = self.loop.workers if count > 512 else 0
        loader = DataLoader(Subset(pictures, positions), batch_size=32, num_workers=workers)
        embedded = torch.cat([self.model(batch.to(self.accelerator.device)).float() for batch in loader])
        gathered = self.accelerator.gather(embedded)
        return gathered.unflatten(0, (processes, share)).transpose(0, 1).flatten(0, 1)[:count]

    def _record(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        if self.accelerator.is_main_process:
            log.debug("%s", json.dumps(row))
        self.accelerator.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            **training_state(self.accelerator, self.model, self.optimiser, self.average),
            "history": self.history,
            "best": self.best,
            "since_best": self.since_best,
        }
        if self.accelerator.is_main_process:
            self.checkpoints.write(step, state, self.loop.keep)
            write_json(self.folder / "history.json", self.history)
            draw_curves(self.history, self.folder / "curves.png")
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Restore the newest readable checkpoint; return the step to continue with."""
        self._finished_at = 0
        if self.accelerator.is_main_process:
            self.checkpoints.sweep()
        saved = self.checkpoints.newest()
        if saved is None:
            return 0
        self.average = restore_training(saved, self.accelerator, self.model, self.optimiser, self.average)
        self.history, self.best, self.since_best = saved["history"], saved["best"], saved["since_best"]
        log.info("going on from step %d of %d", saved["step"], self.steps)
        return int(saved["step"])

    def _start_trackers(self) -> None:
        fields = {**asdict(self.loop), **asdict(self.loop.optimiser), "seed": self.seed}
        self.accelerator.init_trackers("tuning", {name: str(value) for name, value in fields.items()})


def _credit(d_a: Tensor, d_b: Tensor, piece: Piece) -> Tensor:
    """1 where the metric agrees with the majority, 0 where not, 1/2 for equal distances or votes."""
    return 0.5 * (1 + (d_a - d_b).sign() * (piece.votes_b - piece.votes_a).sign())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mix(*numbers: int) -> int:
    """A seed that depends on all the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
