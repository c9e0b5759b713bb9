"""Progress figures of a run, averaged over all processes, and the trackers that record them."""

from __future__ import annotations

import importlib.util
import logging
import time
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import LoggerType
from torch import Tensor

__all__ = ["RunningMeans", "installed"]

log = logging.getLogger(__name__)


class RunningMeans:
    """Mean loss, mean agreement and speed over all processes since the last `take`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.restart()

    def restart(self) -> None:
        self.losses: list[Tensor] = []
        self.agreements: list[Tensor] = []
        self.pictures, self.since = 0, time.perf_counter()

    def add(self, loss: Tensor, agreement: Tensor, pictures: int) -> None:
        """Add one step: this process's part of its mean loss and agreement, and the number of pictures it embedded."""
        self.losses.append(loss)
        self.agreements.append(agreement)
        self.pictures += pictures

    def take(self) -> dict[str, float]:
        """Return the means and start anew. Every process has to call it."""
        sums = torch.stack([torch.stack(self.losses).mean(), torch.stack(self.agreements).mean()])
        pictures = torch.tensor(float(self.pictures), dtype=torch.float32, device=sums.device)
        loss, agreement = self.accelerator.reduce(sums, "sum").tolist()
        speed = float(self.accelerator.reduce(pictures, "sum")) / (time.perf_counter() - self.since)
        self.restart()
        return {"loss": loss, "agreement": agreement, "images per second": speed}


def installed(trackers: tuple[str, ...]) -> Any:
    """Return the trackers that are installed, None if there are none, as accelerate expects; log a warning for each other.

    Raises ValueError for a name that accelerate does not know.
    """
    supported = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    if unknown := sorted(set(trackers) - set(supported)):
        raise ValueError(f"unknown tracker '{unknown[0]}'; accelerate knows {', '.join(supported)}.")
    available = [name for name in trackers if importlib.util.find_spec(name) is not None]
    for name in sorted(set(trackers) - set(available)):
        log.warning("the tracker %s is not installed and left out; pip install %s", name, name)
    return available or None
