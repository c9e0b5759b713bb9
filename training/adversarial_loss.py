"""Losses on pictures that an adversary has changed within a small radius.

With u the metric's unit embedding, u0 that of the metric before tuning, d half the squared chord, and x + delta a changed
picture:

    distance    max over delta_a, delta_b of  loss(d(u(r), u(a + delta_a)), d(u(r), u(b + delta_b)), votes)
    features    max over delta of             2 d(u(x + delta), u0(x)) = |u(x + delta) - u0(x)|^2

The maximum is approached by a few steps of projected gradient ascent. In "distance" the references are not changed, as in an
attack. "features" is FARE's loss, on unit embeddings instead of raw features, because only directions count in the metric.

Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018 (the inner maximisation); Schlarmann et
al., Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large Vision-Language Models, ICML 2024
(FARE); Wong et al., Fast is better than free, ICLR 2020 (a single step from a random start).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.evaluation.robustness.pgd import ascend, random_start
from dreamsim_guidance.metric.distance import half_chord
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.training.adversarial import Adversarial
from dreamsim_guidance.training.triplet_batches import Piece
from dreamsim_guidance.types import Embedding, Image

__all__ = ["AdversarialLoss"]

VoteLosses = Callable[[Embedding, Embedding, Piece], Float[Tensor, " n"]]
"""From the embeddings of a piece's pictures as references and as candidates to one loss per triplet."""


class AdversarialLoss:
    """The loss of a piece's pictures under attack. It has no parameters, and no state that a checkpoint would have to hold.

    config: kind, attack and weights.
    metric: before its first step; for "features" a frozen copy of it is kept.
    """

    def __init__(self, config: Adversarial, metric: DreamSim) -> None:
        self.config = config
        self._before = None
        if config.kind == "features":
            self._before = copy.deepcopy(metric).requires_grad_(False).eval()

    def __call__(
        self, metric: DreamSim, images: Image, directions: Embedding, piece: Piece, vote_losses: VoteLosses
    ) -> Tensor:
        """Return the loss, a single number, as the weighted sum over the piece.

        images: the pictures `(m, 3, s, s)` in [0, 1]. directions: their unit embeddings, `(m, d)`.
        Random numbers come from torch's global generator.
        """
        if self._before is not None:
            self._before.to(images.device)
            with torch.no_grad():
                before = self._before.directions(images)

            def loss(changed: Image) -> Tensor:
                return 2 * half_chord(metric.directions(changed), before).mean() * piece.weight.sum()

            return loss(self._attacked(images, loss))

        fixed = directions.detach()
        candidates = torch.cat([piece.a, piece.b]).unique()

        def vote_loss(changed: Image) -> Tensor:
            moved = fixed.to(changed.dtype).index_copy(0, candidates, metric.directions(changed).to(changed.dtype))
            return (vote_losses(fixed, moved, piece) * piece.weight).sum()

        return vote_loss(self._attacked(images[candidates], vote_loss))

    def _attacked(self, images: Image, loss: Callable[[Image], Tensor]) -> Image:
        attack = self.config.attack
        images = images.detach()
        x = random_start(images, attack)
        for _ in range(attack.steps):
            leaf = x.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf), leaf)
            x = ascend(leaf.detach(), gradient, images, attack)
        return x
