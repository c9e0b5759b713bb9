"""The distance of an image's parts to the same parts of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.target import Target
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.views import Box, chosen_views, cut, numbered_generator

__all__ = ["Parts"]


class Parts(Loss):
    """Mean distance between parts of the images and the same parts of a reference, `(b,)` in [0, 2].

    metric: the metric of the parts; the embeddings of the reference's parts are computed once.
    reference: one image `(1, 3, h, w)` in [0, 1].
    boxes: the parts, each (top, left, bottom, right) in [0, 1]; all go through the metric as one batch.
    draw: how many parts `loss.at(step)` compares, at least 1: always the first, and others by `seed` and `step`.
    seed: decides which parts a step compares.

    Raises ValueError for `draw` below 1 and boxes outside the image.
    """

    name = "parts"
    directions: Tensor

    def __init__(self, metric: DreamSim, reference: Tensor, boxes: Sequence[Box], draw: int, seed: int = 0) -> None:
        super().__init__()
        if draw < 1:
            raise ValueError(f"draw must be at least 1, got {draw}.")
        self.metric, self.boxes, self.draw, self.seed = metric, tuple(boxes), draw, seed
        self.side = max(config.image_size for config in metric.ensemble.configs)
        self.register_buffer("directions", metric.target(self.cut(reference, range(len(boxes)))).directions)

    def cut(self, images: Tensor, chosen: Sequence[int]) -> Tensor:
        """The chosen parts of one image, each resized to the metric's square, `(parts, 3, side, side)`."""
        parts = (cut(images, self.boxes[k], widen=True) for k in chosen)
        return torch.cat([resize(part, (self.side, self.side)) for part in parts])

    def forward(self, images: Tensor) -> Tensor:
        return self.mean_of(images, range(len(self.boxes)))

    def mean_of(self, images: Tensor, chosen: Sequence[int]) -> Tensor:
        """The mean distance of the chosen parts, by their numbers, `(b,)`."""
        target = Target(self.metric, self.directions[list(chosen)])
        return torch.stack([target(self.cut(image[None], chosen)).mean() for image in images])

    def at(self, step: int | float) -> Loss:
        further_views = chosen_views(len(self.boxes) - 1, self.draw - 1, numbered_generator(self.seed, step))
        return Loss.of(partial(self.mean_of, chosen=[0, *(1 + k for k in further_views)]), self.name)
