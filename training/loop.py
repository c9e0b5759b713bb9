"""The settings of a training loop: how long, in what portions, and what is kept."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Literal

from dreamsim_guidance.training.optimiser import Optimiser

__all__ = ["Loop"]


@dataclass(frozen=True)
class Loop:
    """How long, in what portions, and what is kept. The defaults are those of the original's ensemble."""

    optimiser: Optimiser = field(default_factory=Optimiser)
    batch: int = 16
    """Triplets in a step, over all processes."""
    piece: int | None = None
    """Triplets that a process takes at once; fewer than its share of the batch accumulate gradients."""
    epochs: int = 6
    steps: int | None = None
    """Instead of `epochs`."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """None takes that of an `accelerate.Accelerator` of this process, else that of `accelerate launch`."""
    gradient_checkpointing: bool = False
    """Recompute the blocks in the backward pass: less memory, more time."""
    compile: bool = False
    """Through torch.compile."""
    average: float | None = None
    """Momentum of an exponential average of what is trained, which is then what is validated and kept; e.g. 0.999."""
    patience: int | None = None
    """Stop after so many validations without a lower validation loss."""
    validate_every: int | None = None
    """Steps; by default once an epoch."""
    save_every: int = 200
    keep: int = 2
    """How many of the newest checkpoints stay; the best one stays too."""
    log_every: int = 10
    workers: int = 2
    """Processes that decode pictures."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Of accelerate: tensorboard, wandb, trackio, ...; one that is not installed is left out with a warning."""

    def __post_init__(self) -> None:
        if self.precision not in (None, "no", "bf16", "fp16"):
            raise ValueError(f"unknown precision '{self.precision}'; known: no, bf16, fp16.")
        for name in (
            "batch",
            "piece",
            "epochs",
            "steps",
            "patience",
            "validate_every",
            "save_every",
            "keep",
            "log_every",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is a momentum between 0 and 1, e.g. 0.999, got {self.average}.")

    def length(self, triplets: int) -> tuple[int, int]:
        """Steps of the run, and steps between validations."""
        per_epoch = math.ceil(triplets / min(self.batch, triplets))
        return self.steps or self.epochs * per_epoch, self.validate_every or per_epoch

    @property
    def decisive(self) -> str:
        """What decides the trained parameters, as text; where to log and how many workers decode does not."""
        free = {"workers", "trackers", "keep", "save_every", "log_every", "gradient_checkpointing", "compile", "piece"}
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if name not in free)
