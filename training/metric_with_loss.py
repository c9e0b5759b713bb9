"""A metric with a loss on human votes: the computation of a training step in one module, which DDP or FSDP can wrap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dreamsim_guidance.metric.distance import half_chord, unit
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import MLPHead
from dreamsim_guidance.training.adversarial_loss import AdversarialLoss
from dreamsim_guidance.training.triplet_batches import Piece
from dreamsim_guidance.training.vote_losses import VoteLoss
from dreamsim_guidance.types import Embedding, Image

__all__ = ["MetricWithLoss", "freeze_unused"]

MANY_NUMBERS = 2**24
"""Triplets times dimensions from which distances are computed for all pairs of pictures at once."""


class MetricWithLoss(nn.Module):
    """Maps 8-bit pictures to unit embeddings or, given triplets, to their weighted loss and distances.

    Each picture is embedded once, however many triplets contain it. Where only a head is trained, `pictures` are the
    features below the head, which do not change.

    Args:
        metric: what is trained.
        loss: from two distances and the votes to a loss for each triplet.
        augmentation: applied to images `(m, 3, s, s)` in [0, 1] when triplets are given; None for no change.
        adversary: adds its loss in training mode; None for no adversary.
        regularisation: weight of the mean distance between the pictures' embeddings and those before tuning, which pieces then
            hold; 0, the default, for none.
    """

    def __init__(
        self,
        metric: DreamSim,
        loss: VoteLoss,
        augmentation: Callable[[Image], Image] | None = None,
        adversary: AdversarialLoss | None = None,
        regularisation: float = 0.0,
    ) -> None:
        super().__init__()
        self.metric, self.vote_loss, self.augmentation, self.adversary = metric, loss, augmentation, adversary
        self.regularisation = regularisation

    def forward(self, pictures: Tensor, piece: Piece | None = None, embedded: bool = False) -> Any:
        """Return `(m, d)` unit embeddings or, with `piece`, the weighted sum of losses and the `(n,)` distances to a and b.

        With `embedded`, `pictures` already are unit embeddings.
        """
        images = (
            None if embedded or pictures.dtype != torch.uint8 else self._images(pictures, augmented=piece is not None)
        )
        u = pictures if embedded else self._directions(pictures if images is None else images)
        if piece is None:
            return u
        d_a, d_b = _distances(u, piece)
        losses = self.vote_loss(d_a, d_b, piece.votes_a, piece.votes_b, piece.origin)
        if self.regularisation and not embedded:
            moved = half_chord(u, piece.untuned.to(u.dtype))
            of_triplets = torch.stack([moved[piece.reference], moved[piece.a], moved[piece.b]]).mean(0)
            losses = losses + self.regularisation * of_triplets
        loss = (losses * piece.weight).sum()
        if self.adversary is not None and self.training:
            assert images is not None  # features of frozen towers are not kept for adversarial tuning
            attacked = self.adversary(self.metric, images, u, piece, self._vote_losses)
            loss = self.adversary.config.clean_weight * loss + self.adversary.config.weight * attacked
        return loss, d_a.detach(), d_b.detach()

    def _images(self, pictures: UInt8[Tensor, "m 3 s s"], augmented: bool) -> Image:
        images = pictures.to(self.metric.dtype) / 255
        return self.augmentation(images) if augmented and self.augmentation is not None else images

    def _directions(self, inputs: Image | Float[Tensor, "m d"]) -> Embedding:
        """Unit embeddings of images, or of the features below the head."""
        if inputs.ndim == 4:
            return self.metric.directions(inputs)
        head = self.metric.ensemble.head
        assert head is not None  # features are computed for a head only
        return unit(self.metric.normalize(head(inputs)))

    def _vote_losses(self, references: Embedding, candidates: Embedding, piece: Piece) -> Float[Tensor, " n"]:
        """The loss of each triplet, from embeddings of the same pictures as references and as candidates."""
        reference = references[piece.reference]
        d_a, d_b = half_chord(reference, candidates[piece.a]), half_chord(reference, candidates[piece.b])
        return self.vote_loss(d_a, d_b, piece.votes_a, piece.votes_b, piece.origin)

    def train(self, mode: bool = True) -> MetricWithLoss:
        """Set the mode of what is trained; frozen towers stay in eval mode, which is faster and gives the same."""
        super().train(False)
        self.training = mode
        towers_are_trained = any(
            p.requires_grad for name, p in self.metric.ensemble.branches.named_parameters() if ".lora_" not in name
        )
        if towers_are_trained:
            self.metric.train(mode)
        for module in self.metric.modules():
            if hasattr(module, "lora_A") or isinstance(module, MLPHead):
                module.train(mode)
        return self


def _distances(u: Embedding, piece: Piece) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """The distances of the triplets of `piece` to a and b.

    Where many triplets share few pictures, all pairs of pictures are compared at once: for unit vectors 1 - cos has the same
    value and gradient as half the squared chord, up to rounding.
    """
    triplets, numbers = len(piece.reference), len(piece.reference) * u.shape[1]
    if triplets > 4 * len(u) and numbers > MANY_NUMBERS:
        distances = 1 - u @ u.mT
        return distances[piece.reference, piece.a], distances[piece.reference, piece.b]
    return half_chord(u[piece.reference], u[piece.a]), half_chord(u[piece.reference], u[piece.b])


def freeze_unused(model: MetricWithLoss, piece: Piece) -> None:
    """Freeze parameters that no gradient reaches, such as an unused final norm: DDP would wait for them forever."""
    model.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    piece = piece.to(next(model.parameters()).device)
    loss, _, _ = model(piece.pictures, piece)
    for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
