"""Losses on the features of a frozen network; the features of a fixed reference are computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.losses.frozen_network import FrozenPairLoss
from dreamsim_guidance.losses.pair import check_agreement, check_pair
from dreamsim_guidance.preprocess import check_candidate, check_images, check_range
from dreamsim_guidance.types import Distance, Image

__all__ = ["FeatureLoss"]


class FeatureLoss(FrozenPairLoss):
    """A pair loss that is a distance of feature maps; subclasses define `features` and `distance`.

    No gradient flows to the target or to the network. `against(reference)` stores the reference's features, which saves
    one pass of the network per step.
    """

    smallest: int = 1
    """Smallest height and width, in pixels, that the network accepts."""

    def features(self, images: Image) -> Sequence[Tensor]:
        """Feature maps `(b, c, h, w)`, one per layer."""
        raise NotImplementedError

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Distance:
        """One value per image, `(b,)`, from the feature maps of two batches; those of `b` may have a batch of 1."""
        raise NotImplementedError

    def forward(self, pred: Image, target: Float[Tensor, "#b 3 h w"]) -> Distance:
        check_pair(pred, target)
        self._check_size(pred)
        with torch.no_grad():
            of_target = self.features(
                target.detach()
            )  # DISTS' first feature is the image itself, which may have a graph
        return self._distance(self.features(pred), of_target)

    def against(self, reference: Image) -> Loss:
        """This loss towards a fixed reference of batch 1 or b; it is checked and its features are computed here."""
        check_images(reference, "reference")
        check_range(reference, "reference")
        self._check_size(reference)
        return _AgainstFeatures(self, reference)

    def _distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        # in float32 or wider, whatever dtype autocast gave the features
        with torch.autocast(a[0].device.type, enabled=False):
            return self.distance([_wide(x) for x in a], [_wide(x) for x in b])

    def _check_size(self, images: Tensor) -> None:
        if min(images.shape[-2:]) < self.smallest:
            raise ValueError(
                f"{self.name} needs images of at least {self.smallest} x {self.smallest} pixels, "
                f"got {images.shape[-2]} x {images.shape[-1]}; enlarge them first."
            )


class _AgainstFeatures(Loss):
    def __init__(self, pair: FeatureLoss, reference: Tensor) -> None:
        super().__init__()
        self.pair = pair
        self.name = pair.name
        self.capturable = pair.capturable  # type: ignore[misc]  # of the class, elsewhere
        self.shape = tuple(reference.shape)
        with torch.no_grad():
            for i, feature in enumerate(pair.features(reference)):
                self.register_buffer(f"feature_{i}", feature, persistent=False)

    def forward(self, images: Image) -> Distance:
        check_images(images)
        check_agreement(images, self.shape)
        check_candidate(images, overshoot=True)
        return self.pair._distance(self.pair.features(images), list(self._buffers.values()))  # type: ignore[arg-type]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
