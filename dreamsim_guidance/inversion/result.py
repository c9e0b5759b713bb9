"""The result of an inversion: what was found, the way there, how sure it is, and its files."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.utils import make_grid

from dreamsim_guidance.files.atomic import write_json, write_tensors, writing
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.types import Distance, Image

__all__ = ["Inversion"]


@dataclass(frozen=True)
class Inversion:
    """The result of `invert`: the best step of every sample, of b samples."""

    images: Image
    """What the leaves give, as the loss saw it: in [0, 1] but for overshoots below 0.25."""
    leaves: dict[str, Tensor]
    """The tensors that were optimised, by name, each `(b, ...)`; a single one without a name is "leaf"."""
    loss: Distance
    best_step: Int64[Tensor, " b"]
    """From 0, the start, to the number of steps."""
    history: dict[str, Float[Tensor, "steps b"]]
    """Every term before its weight, and the total under "loss", at steps 0, 1, ..., on the CPU; NaN after a sample stopped."""
    judges: dict[str, Distance] = field(default_factory=dict)
    """What metrics that took no part say of the images."""
    seconds: float = 0.0
    """Wall-clock time of search and descent, in the process that finished them."""

    def steps_to(self, threshold: float) -> Int64[Tensor, " b"]:
        """The first step at which each sample's loss was at most `threshold`, `(b,)`, -1 where none was."""
        reached = self.history["loss"] <= threshold
        return torch.where(reached.any(0), reached.int().argmax(0), -1)

    def success(self, threshold: float) -> Bool[Tensor, " b"]:
        """Whether each sample's loss is at most `threshold`, `(b,)`; its mean is the success rate."""
        return self.loss <= threshold

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write result.safetensors (everything), result.json (the numbers) and images.png, each complete or not at all.

        The folder is made if it is missing; files of an earlier result are replaced. Raises OSError where it cannot write.
        """
        folder = Path(folder)
        columns = {"leaves": self.leaves, "history": self.history, "judges": self.judges}
        tensors = {f"{group}/{name}": tensor for group, parts in columns.items() for name, tensor in parts.items()}
        tensors |= {"images": self.images, "loss": self.loss, "best_step": self.best_step}
        with writing(folder / "result.safetensors") as temporary:
            write_tensors(
                {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
                temporary,
                {"seconds": json.dumps(self.seconds)},
            )
        save_image(
            make_grid(self.images, math.ceil(len(self.images) ** 0.5), padding=2, pad_value=1.0), folder / "images.png"
        )
        numbers = {"loss": self.loss, "best_step": self.best_step, "judges": self.judges, "seconds": self.seconds}
        write_json(folder / "result.json", {**numbers, "history": self.history})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Inversion:
        """Read what `save` wrote, on the CPU. Raises OSError if it is missing."""
        from safetensors import safe_open

        groups: dict[str, dict[str, Tensor]] = {"": {}, "leaves": {}, "history": {}, "judges": {}}
        with safe_open(Path(folder) / "result.safetensors", "pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dictionary
                group, _, name = key.rpartition("/") if "/" not in key else key.partition("/")
                groups[group][name] = file.get_tensor(key)
            seconds = json.loads(file.metadata()["seconds"])
        return cls(**groups.pop(""), **groups, seconds=seconds)  # type: ignore[arg-type]
