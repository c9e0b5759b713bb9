"""A metric of picture files as a differentiable function of images, for attacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dreamsim_guidance.files.pictures import Reading
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.types import Distance, Image

__all__ = ["DifferentiableMetric", "ImageMetric"]


@dataclass(frozen=True)
class ImageMetric:
    """A metric on images instead of files.

    towards: from references `(n, 3, h, w)` to the function of n images, one for each reference, that returns their distances.
    size: side of the square that the metric reads from a file; None for the pictures' own size.
    device: where images must be.
    batch: images at once.
    workers: processes that read pictures ahead.
    reading: how picture files are read.
    model: the `DreamSim` behind the metric, for whoever looks inside; None for other metrics.
    """

    towards: Callable[[Image], Callable[[Image], Distance]]
    size: int | None
    device: str
    batch: int
    workers: int
    reading: Reading
    model: DreamSim | None = None


@runtime_checkable
class DifferentiableMetric(Protocol):
    """A metric of files that can also be used on images, with a gradient if the metric itself has one."""

    def on_images(self) -> ImageMetric:
        """Return the metric on images. Raises as `FileMetric.distances` where weights or a package are missing."""
