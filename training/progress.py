"""What a run tells about itself on the way: means over all processes, and the trackers that take them."""

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
    """Means since they were last taken, over all processes."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.restart()

    def restart(self) -> None:
        self.losses: list[Tensor] = []
        self.right: list[Tensor] = []
        self.pictures, self.since = 0, time.perf_counter()

    def add(self, loss: Tensor, right: Tensor, pictures: int) -> None:
        self.losses.append(loss)
        self.right.append(right)
        self.pictures += pictures

    def take(self) -> dict[str, float]:
        sums = torch.stack([torch.stack(self.losses).mean(), torch.stack(self.right).mean()])
        pictures = torch.tensor(float(self.pictures), device=sums.device)
        loss, right = self.accelerator.reduce(sums, "sum").tolist()
        speed = float(self.accelerator.reduce(pictures, "sum")) / (time.perf_counter() - self.since)
        self.restart()
        return {"loss": loss, "agreement": right, "images per second": speed}


def installed(trackers: tuple[str, ...]) -> Any:
    """Those that are installed; the others are named in the log. None for none, as accelerate wants it."""
    found = [name for name in trackers if importlib.util.find_spec(name) is not None]
    known = [kind.value for kind in LoggerType if kind != LoggerType.ALL]
    if odd := sorted(set(trackers) - set(known)):
        raise ValueError(f"unknown tracker '{odd[0]}'; accelerate knows {', '.join(known)}.")
    for name in sorted(set(trackers) - set(found)):
        log.warning("the tracker %s is not installed and left out; pip install %s", name, name)
    return found or None
