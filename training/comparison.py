"""A metric with a loss on human votes: what a training step computes, in one module that DDP or FSDP can wrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamsim_guidance.metric.dreamsim import DreamSim, half_chord, unit
from dreamsim_guidance.training.triplet_batches import Piece
from dreamsim_guidance.training.vote_losses import VoteLoss
from dreamsim_guidance.types import Embedding, Image

__all__ = ["Comparison"]


class Comparison(nn.Module):
    """Pictures in 8 bits to unit vectors, or with triplets to their weighted loss and distances.

    Every picture is embedded once, however many triplets it is in. Where only a head is trained, "pictures" are the
    features under it, which never change.
    """

    def __init__(self, metric: DreamSim, loss: VoteLoss, augmentation: Callable[[Image], Image] | None = None) -> None:
        super().__init__()
        self.metric, self.vote_loss, self.augmentation = metric, loss, augmentation

    def forward(self, pictures: Tensor, piece: Piece | None = None, embedded: bool = False) -> Any:
        """`(m, d)` unit vectors without `piece`; else the loss, summed with the weights, and `(n,)` distances to a and b.

        With `embedded`, `pictures` are unit vectors already.
        """
        u = pictures if embedded else self.directions(pictures, augmented=piece is not None)
        if piece is None:
            return u
        d_a, d_b = half_chord(u[piece.reference], u[piece.a]), half_chord(u[piece.reference], u[piece.b])
        losses = self.vote_loss(d_a, d_b, piece.votes_a, piece.votes_b)
        return (losses * piece.weight).sum(), d_a.detach(), d_b.detach()

    def directions(
        self, pictures: UInt8[Tensor, "m 3 s s"] | Float[Tensor, "m d"], augmented: bool = False
    ) -> Embedding:
        if pictures.dtype != torch.uint8:
            head = self.metric.ensemble.head
            assert head is not None  # features are made for a head only
            return unit(self.metric.normalize(head(pictures)))
        images = pictures.to(self.metric.dtype) / 255
        if augmented and self.augmentation is not None:
            images = self.augmentation(images)
        return self.metric.directions(images)

    def train(self, mode: bool = True) -> Comparison:
        """Frozen towers stay in eval mode, which is faster and the same; adapters and what is trained whole follow."""
        super().train(False)
        self.training = mode
        trained_whole = any(
            p.requires_grad for name, p in self.metric.ensemble.branches.named_parameters() if ".lora_" not in name
        )
        if trained_whole:
            self.metric.train(mode)
        for module in self.metric.modules():
            if hasattr(module, "lora_A"):
                module.train(mode)
        return self
