"""The loss that guides: under several random views of the image, and with one reference for each prompt.

Changes that nobody sees can move an image to any embedding of a network. Such changes rarely survive a crop, a change of
colour and a little noise, so the gradient is averaged over random views of the image. The gradients are added up at the
image, view by view, so that the decoder is passed only once.

Adding them up at the image is an idea of Disco Diffusion; Shen et al., Understanding and Improving Training-free Loss-based
Diffusion Guidance, NeurIPS 2024 (augmentation against misaligned gradients).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.terms import check_values
from dreamsim_guidance.views import RandomChanges, numbered_generator, random_view

__all__ = ["Views", "cutouts"]


class Views:
    """A loss, taken under `views` augmentations. The random numbers are those of the step, so that runs repeat."""

    def __init__(
        self, loss: Callable[[Tensor], Tensor], views: int = 1, augmentation: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.loss, self.views = loss, views
        self._augmentation = augmentation
        self.augmented = views > 1 or augmentation is not None
        self.images_per_reference = 1

    def __call__(self, images: Tensor, step: int) -> Tensor:
        """One value per image `(b,)`, without augmentation.

        Where prompts have several images, a loss sees one image of each prompt at a time, or all if it cannot take that.
        """
        loss = self._at(step)
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
                alone = check_values(loss(images), images, "the loss")
            except (RuntimeError, ValueError):
                raise ValueError(
                    f"{error} (The loss was called with {len(images) // k} images, one of each prompt's {k}, and with all "
                    f"{len(images)}; it has to take one or the other.)"
                ) from error
            self.images_per_reference = 1  # it has a reference for each image
            return alone

    def gradient(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The mean over the views, `(b,)`, and its gradient in the images."""
        total, slope = torch.zeros((), dtype=torch.float32), torch.zeros_like(images)
        for view in range(self.views):
            leaf = images.detach().requires_grad_()  # one view's graph at a time
            with torch.enable_grad():
                values = self(self._view(leaf, step, view), step)
                if not values.requires_grad:
                    raise ValueError(
                        "the loss has no gradient in the images; it must be differentiable, without no_grad inside."
                    )
                (part,) = torch.autograd.grad(values.sum(), leaf)
            total = total.to(values.device) + values.detach() / self.views
            slope = slope + part / self.views
        return total, slope

    def _view(self, images: Tensor, step: int, view: int) -> Tensor:
        if not self.augmented:
            return images
        if self._augmentation is None:
            self._augmentation = cutouts((images.shape[-2], images.shape[-1]))
        view_of = random_view(self._augmentation, images, numbered_generator(step, view))
        if not isinstance(view_of, Tensor) or len(view_of) != len(images):
            raise ValueError(
                f"augmentation must return a batch of as many images, {len(images)}, got {getattr(view_of, 'shape', view_of)}; "
                "for several views of each give views=."
            )
        return view_of

    def _at(self, step: int) -> Callable[[Tensor], Tensor]:
        loss: Any = self.loss
        return loss.at(step) if hasattr(loss, "at") else loss


def cutouts(size: tuple[int, int], share: tuple[float, float] = (0.6, 1.0), noise: float = 0.03) -> nn.Module:
    """Random cutouts of a `share` of the area, brought back to `size`, with changes of colour and Gaussian noise."""
    return RandomChanges(
        crop=share, colour=(0.1, 0.1, 0.1, 0.02), coloured=0.5, added_brightness=True, noise=noise
    ).chain(size)
