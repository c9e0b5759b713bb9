"""The settings of a training loop: its length, its batches, and what it keeps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Literal

from dreamsim_guidance.training.optimiser import Optimiser

__all__ = ["Loop"]


@dataclass(frozen=True)
class Loop:
    """Length, batches, precision, checkpoints and logs. The defaults are those of the original's ensemble."""

    optimiser: Optimiser = field(default_factory=Optimiser)
    batch: int = 16
    """Triplets of a step, over all sets and processes."""
    pictures: int | None = None
    """Pictures of a step, over all sets: its triplets are all those among them, at most `batch`. For sets that show every
    picture in many triplets: embedding pictures is what costs. None: `batch` triplets, whatever pictures they show."""
    piece: int | None = None
    """Triplets that a process computes at once; gradients accumulate until its share of the batch is done. None: all."""
    epochs: int = 6
    """Passes over the training triplets."""
    steps: int | None = None
    """Steps of the optimiser, instead of `epochs`."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision; None takes that of an `accelerate.Accelerator` of this process, else that of `accelerate launch`."""
    gradient_checkpointing: bool = False
    """Recompute the blocks in the backward pass: less memory, more time, the same result."""
    compile: bool = False
    """Compile the towers with torch.compile."""
    average: float | None = None
    """Momentum, between 0 and 1, e.g. 0.999, of an average of the weights, which is validated and kept. None: no average."""
    patience: int | None = None
    """Stop after this many validations without a lower validation loss. None: never."""
    validate_every: int | None = None
    """Steps between validations; by default once an epoch."""
    save_every: int = 200
    """Steps between checkpoints."""
    keep: int = 2
    """Number of newest checkpoints that are kept, besides the best one."""
    log_every: int = 10
    """Steps between entries of the history and of the trackers."""
    workers: int = 2
    """Processes that decode pictures; 0 decodes in the training process."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Trackers of accelerate: tensorboard, wandb, trackio, ...; one that is not installed is left out with a warning."""

    def __post_init__(self) -> None:
        if self.precision not in (None, "no", "bf16", "fp16"):
            raise ValueError(f"unknown precision '{self.precision}'; known: no, bf16, fp16.")
        for name in (
            "batch",
            "pictures",
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
        """Number of steps of a run on so many triplets, and number of steps between validations."""
        per_epoch = math.ceil(triplets / min(self.batch, triplets))
        return self.steps or self.epochs * per_epoch, self.validate_every or per_epoch

    @property
    def decisive(self) -> str:
        """The settings that decide the trained parameters, as text; those of logs, workers and memory are left out."""
        irrelevant = {
            "workers",
            "trackers",
            "keep",
            "save_every",
            "log_every",
            "gradient_checkpointing",
            "compile",
            "piece",
        }
        if self.pictures is None:
            irrelevant.add("pictures")  # older checkpoints do not name it
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if name not in irrelevant)
