"""The loss that guides: under several random views of the image, and with one reference for each prompt.

Changes that are invisible to people can move an image to any embedding of a network. Such changes rarely survive a crop, a
change of colour and a little noise, so the gradient is averaged over random views of the image. The gradients are added up at
the image, view by view, so that the decoder is passed only once.

Adding them up at the image is an idea of Disco Diffusion; Shen et al., Understanding and Improving Training-free Loss-based
Diffusion Guidance, NeurIPS 2024 (augmentation against misaligned gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.loss.terms import check_values
from dreamsim_guidance.views import RandomChanges, numbered_generator, random_view

__all__ = ["Views", "cutouts"]


class Views:
    """A loss, evaluated under augmentations whose random numbers depend on the step alone, so that runs can be repeated.

    loss: from images `(b, 3, h, w)` to one value for each; a `Loss` is fixed at the step, `loss.at(step)`.
    views: number of augmented evaluations for each gradient.
    augmentation: from images to as many images; by default `cutouts` if there are several views, else none.
    images_per_reference (attribute, 1 at first): how many images in a row belong to one reference of the loss.
    """

    def __init__(
        self, loss: Callable[[Tensor], Tensor], views: int = 1, augmentation: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.loss, self.views = loss, views
        self._augmentation = augmentation
        self.augmented = views > 1 or augmentation is not None
        self.images_per_reference = 1

    def at(self, step: int) -> Callable[[Tensor], Tensor]:
        """The loss, its scheduled weights fixed at their values for `step`."""
        return self.loss.at(step) if isinstance(self.loss, Loss) else self.loss

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """The loss of each image `(b,)`, without augmentation.

        With several images per reference, the loss is called with one image of each reference at a time; a loss that does not
        accept that is called with all images from then on.

        Raises `TypeError` or `ValueError` unless the loss returns one value per image.
        """
        return self._values(self.at(step), images)

    def _values(self, loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        k = self.images_per_reference
        if k == 1 or len(images) % k:
            return check_values(loss(images), images, "the loss")
        try:
            values = [check_values(loss(images[j::k]), images[j::k], "the loss") for j in range(k)]
            return torch.stack(values, dim=1).flatten()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            try:
                values_of_all = check_values(loss(images), images, "the loss")
            except (RuntimeError, ValueError):
                raise ValueError(
                    f"{error} (The loss was called with {len(images) // k} images, one of each prompt's {k}, and with all "
                    f"{len(images)}; it has to take one or the other.)"
                ) from error
            self.images_per_reference = 1  # it has a reference for each image
            return values_of_all

    def gradient(
        self, images: Tensor, step: int, loss: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of each image, averaged over the views, `(b,)`, and its gradient in the images.

        loss: evaluated instead of `at(step)`.

        Raises `ValueError` for a loss whose value does not depend on the images.
        """
        total: Tensor | float = 0.0
        slope = torch.zeros_like(images)
        for view in range(self.views):
            leaf = images.detach().requires_grad_()  # one view's graph at a time
            with torch.enable_grad():
                values = self._values(loss or self.at(step), self._view(leaf, step, view))
                part = None
                if values.requires_grad:  # perhaps by parameters of its own alone
                    (part,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
                if part is None:
                    raise ValueError(
                        "the loss has no gradient in the images: its value does not depend on them, or the graph was cut. It "
                        "must be differentiable, without detach(), no_grad or numbers (.item(), numpy) inside; a constant "
                        "cannot guide, leave it out."
                    )
            total = total + values.detach() / self.views
            slope = slope + part / self.views
        return cast(Tensor, total), slope

    def _view(self, images: Tensor, step: int, view: int) -> Tensor:
        if not self.augmented:
            return images
        if self._augmentation is None:
            self._augmentation = cutouts((images.shape[-2], images.shape[-1]))
        augmented = random_view(self._augmentation, images, numbered_generator(step, view))
        if not isinstance(augmented, Tensor) or len(augmented) != len(images):
            raise ValueError(
                f"augmentation must return a batch of as many images, {len(images)}, got "
                f"{getattr(augmented, 'shape', augmented)}; for several views of each give views=."
            )
        return augmented


def cutouts(size: tuple[int, int], share: tuple[float, float] = (0.6, 1.0), noise: float = 0.03) -> nn.Module:
    """The default augmentation: random cutouts resized to the images' size, changes of colour, and Gaussian noise.

    size: height and width in pixels. share: smallest and largest part of the area that is cut out, in (0, 1].
    noise: standard deviation.
    """
    return RandomChanges(
        crop=share, colour=(0.1, 0.1, 0.1, 0.02), coloured=0.5, added_brightness=True, noise=noise
    ).chain(size)
