"""Time of a training step, compared with the same step for the original's model, on the CPU, in alternation in one process.

    python benchmarks/training_step.py --batches 1 4 --repeats 5 --to benchmarks/results

A step computes the hinge loss of a batch of triplets of distinct pictures under a LoRA adapter of the ensemble (rank 16,
dropout 0.3), its gradient, and one update by Adam. The original's training embeds four pictures for each triplet, the reference
twice; ours embeds three. Weights are random, in the original's file format. Before the timing, both sides must agree on the
losses of three steps without dropout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from guidance_step import load
from torch import Tensor
from turns import SIDES, describe_machine, print_row, take_turns

from dreamsim_guidance.training.metric_with_loss import MetricWithLoss
from dreamsim_guidance.training.triplet_batches import Piece
from dreamsim_guidance.training.vote_losses import VoteLoss, VoteLossConfig


def pictures(batch: int) -> Tensor:
    """References, left and right pictures, `(3, batch, 3, 224, 224)`, in 8 bits."""
    random = torch.Generator().manual_seed(batch)
    coarse = torch.rand(3 * batch, 3, 14, 14, generator=random)
    fine = torch.nn.functional.interpolate(coarse, (224, 224), mode="bilinear")
    return (fine * 255).byte().unflatten(0, (3, batch))


def stepper(side: str, folder: Path, variant: str, batch: int, dropout: bool) -> Callable[[], float]:
    """A function that makes one training step and returns its loss."""
    images = pictures(batch)
    winner = torch.arange(batch) % 2  # 1: right is nearer
    model = load(side, folder, variant, for_training=True)
    trained = [p.requires_grad_(True) for name, p in model.named_parameters() if "lora_" in name]
    optimiser = torch.optim.Adam(trained, lr=3e-4, betas=(0.5, 0.999))
    if side == "ours":
        trained_metric = MetricWithLoss(model, VoteLoss(VoteLossConfig())).train(dropout)
        positions = torch.arange(3 * batch).unflatten(0, (3, batch))
        votes = winner.float()
        piece = Piece(
            images.flatten(0, 1), *positions, 1 - votes, votes, torch.full((batch,), 1 / batch, dtype=torch.float32)
        )  # type: ignore[misc]

        def loss() -> Tensor:
            return trained_metric(piece.pictures, piece)[0]
    else:
        model.train(dropout)
        reference, left, right = images.float() / 255

        def loss() -> Tensor:
            logit = model(reference, left) - model(reference, right)
            return (0.05 - logit * (2 * winner - 1)).clamp(min=0).sum() / batch

    def step() -> float:
        value = loss()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        return value.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="ensemble")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--to", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        from official_format import write_official

        folder = write_official(scratch, options.variant)
        steps = {side: stepper(side, folder, options.variant, 2, dropout=False) for side in SIDES}
        losses = {side: [steps[side]() for _ in range(3)] for side in SIDES}
        difference = max(abs(a - b) / abs(a) for a, b in zip(losses["original"], losses["ours"], strict=True))
        if difference > 1e-4:
            raise SystemExit(f"the sides differ by {difference:.1e} in their losses {losses}, allowed 1e-4")
        del steps
        for batch in options.batches:
            steps = {side: stepper(side, folder, options.variant, batch, dropout=True) for side in SIDES}
            for side in SIDES:
                steps[side]()  # warm-up
            row = take_turns(steps, options.repeats)
            rows.append({"job": "training step", "batch": batch, **row, "difference": difference})
            print_row(f"{batch:3} triplets", row)
    machine = describe_machine(options.threads)
    options.to.mkdir(parents=True, exist_ok=True)
    path = options.to / f"training_step_{options.variant}.json"
    path.write_text(json.dumps({"machine": machine, "repeats": options.repeats, "times": rows}, indent=1))
    print(f"{machine}\nwritten to {path}")


if __name__ == "__main__":
    main()
