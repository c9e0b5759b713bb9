"""Distances under augmentation, against adversarial gradients.

Changes that are invisible to people can move an image to any embedding of a network. Such changes rarely survive a crop, a flip
and a change of colour, so the image and its reference are compared under K augmentations, the same for both:

    d(x, y) = 1/K sum_k d(T_k x, T_k y)

T_1 .. T_K are fixed at construction, so that the K embeddings of the reference are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.losses.crops import target_at, target_of
from dreamsim_guidance.preprocess import check_images, check_range, resize
from dreamsim_guidance.types import Distance, Image
from dreamsim_guidance.views import RandomChanges, chosen_views, numbered_generator, random_view

__all__ = ["Augmented", "augmentation"]


class Augmented(Loss):
    """A metric's distance to a reference, averaged over `views` fixed augmentations of both.

    `loss(images)` averages over all views and gives the same value every time, at the cost of `views` passes of the
    metric. `loss.at(step)` uses `draw` of them, chosen by `seed` and `step`: the cheap form, for loops that count their
    steps. For other loops pass a `generator`, from which every call draws its views.

    metric: anything that can be bound to a reference: a `DreamSim` (`.target`) or a pair loss (`.against`).
    reference: `(1 or b, 3, h, w)` in [0, 1].
    views: number of augmentations, at least 1.
    draw: number of views that a step uses, from 1 to `views`.
    seed: decides the augmentations and which of them a step uses.
    size: (height, width) to which images and reference are resized before the augmentation, by default the reference's.
    transform: a module from images to images that treats all images of a batch alike (kornia: `same_on_batch=True`) and
        draws from torch's CPU generator; `augmentation(size)` by default.
    generator: a CPU generator; `loss(images)` then uses `draw` views instead of all.

    Raises ValueError for numbers and references out of range, TypeError for a metric that cannot be bound.
    """

    name = "augmented"

    def __init__(
        self,
        metric: object,
        reference: Image,
        *,
        views: int = 8,
        draw: int = 1,
        seed: int = 0,
        size: tuple[int, int] | None = None,
        transform: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= draw <= views:
            raise ValueError(f"draw must lie between 1 and views, got {draw} of {views}.")
        check_images(reference, "reference")
        check_range(reference, "reference")
        self.size: tuple[int, int] = size or (reference.shape[-2], reference.shape[-1])
        # in a tuple, where nn.Module does not find it: after .double() or .to("cuda") kornia would draw other numbers
        self._transform = (augmentation(self.size) if transform is None else transform,)
        self.views, self.draw, self.seed, self.generator = views, draw, seed, generator
        with torch.no_grad():
            self.targets = nn.ModuleList(target_of(metric, self.view(reference, k)) for k in range(views))

    @property
    def transform(self) -> nn.Module:
        """The augmentation; it does not change when the loss is moved to another device or dtype."""
        return self._transform[0]

    def view(self, images: Image, k: int) -> Float[Tensor, "b 3 view_h view_w"]:
        """The k-th augmentation of `images`, the same for every image of every batch; k counts from 0."""
        if not 0 <= k < self.views:
            raise ValueError(f"k must lie in [0, {self.views}), got {k}.")
        return random_view(self.transform, resize(images, self.size), numbered_generator(self.seed, k))

    def forward(self, images: Image) -> Distance:
        chosen = range(self.views) if self.generator is None else chosen_views(self.views, self.draw, self.generator)
        return self.mean_of(images, chosen)

    def mean_of(self, images: Image, views: Sequence[int], step: int | float = 0) -> Distance:
        """The mean distance under the given views, `(b,)`; scheduled weights inside have their value for `step`."""
        check_images(images)
        return torch.stack([target_at(self.targets[k], step)(self.view(images, k)) for k in views]).mean(0)

    def at(self, step: int | float) -> Loss:
        """The loss under the views of this step."""
        return _Drawn(self, chosen_views(self.views, self.draw, numbered_generator(self.seed, step)), step)


class _Drawn(Loss):
    name = "augmented"

    def __init__(self, loss: Augmented, views: tuple[int, ...], step: int | float) -> None:
        super().__init__()
        self.loss = loss
        self.views, self.step = views, step

    def forward(self, images: Image) -> Distance:
        return self.loss.mean_of(images, self.views, self.step)


def augmentation(size: tuple[int, int], scale: tuple[float, float] = (0.6, 1.0)) -> nn.Module:
    """A module that rotates, crops, flips and recolours images `(b, 3, h, w)` in [0, 1] at random, a whole batch alike.

    size: (height, width) of the result.
    scale: share of the area that the crop keeps, from and to.

    It draws from torch's CPU generator.
    """
    return RandomChanges(
        crop=scale,
        flip=0.5,
        degrees=8.0,
        rotated=0.5,
        rotate_first=True,
        colour=(0.1, 0.1, 0.1, 0.02),
        coloured=0.5,
        added_brightness=True,
        alike=True,
    ).chain(size)
