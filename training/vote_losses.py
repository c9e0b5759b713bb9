"""Losses between a metric's two distances and the votes of people, one value per triplet.

With d_a, d_b the distances of a, b to the reference, z = d_a - d_b (positive: b is nearer), and p = n_b / (n_a + n_b) the
share of people who found b nearer:

    hinge          max(0, margin - y z),  y = +1 if p > 1/2 else -1: the original's; for equal votes the mean of both signs
    logistic       cross-entropy of sigmoid(z / temperature) with p
    bradley_terry  the same times n_a + n_b: the negative log-likelihood of the votes under worths exp(-d / temperature);
                   the temperature is learned with the metric

A learned temperature is one number for each set of judgments, since people answer some questions less consistently than others.

Fu et al., DreamSim, NeurIPS 2023, section 4.2 (hinge); Bradley and Terry, Rank analysis of incomplete block designs,
Biometrika 1952. A pixel-space ranking loss on fractions: Zhang et al., LPIPS, CVPR 2018.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamsim_guidance.training.vote_loss_config import Kind, VoteLossConfig

__all__ = ["Kind", "VoteLoss", "VoteLossConfig"]


class VoteLoss(nn.Module):
    """Maps distances and votes of n triplets, each `(n,)`, to n losses. A learned temperature is a parameter.

    sets: number of sets of judgments, each of which gets a learned temperature of its own.
    """

    log_temperature: nn.Parameter | None

    def __init__(self, config: VoteLossConfig, sets: int = 1) -> None:
        super().__init__()
        self.config = config
        learned = config.learned or config.kind == "bradley_terry"
        start = torch.full((sets,), math.log(config.temperature), dtype=torch.float32)  # FSDP cannot shard a scalar
        self.log_temperature = nn.Parameter(start) if learned else None

    @property
    def temperature(self) -> float | tuple[float, ...] | None:
        """The current temperature, of several sets one for each where it is learned; None for the hinge."""
        if self.log_temperature is None:
            return None if self.config.kind == "hinge" else self.config.temperature
        learned = tuple(self.log_temperature.detach().exp().tolist())
        return learned if len(learned) > 1 else learned[0]

    def forward(
        self,
        distance_a: Float[Tensor, " n"],
        distance_b: Float[Tensor, " n"],
        votes_a: Float[Tensor, " n"],
        votes_b: Float[Tensor, " n"],
        origin: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " n"]:
        """The losses. origin: number of each triplet's set, from 0; None for one set alone."""
        z, people = distance_a - distance_b, votes_a + votes_b
        share = (votes_b / people).to(z.dtype)
        if self.config.kind == "hinge":
            b_won = 0.5 * (1 + (share - 0.5).sign())  # 0, 1, or 1/2 for equal votes
            return b_won * F.relu(self.config.margin - z) + (1 - b_won) * F.relu(self.config.margin + z)
        if self.log_temperature is None:
            return F.binary_cross_entropy_with_logits(z / self.config.temperature, share, reduction="none")
        temperatures = self.log_temperature.exp()
        temperature = temperatures if origin is None or len(temperatures) == 1 else temperatures[origin]
        likelihood = F.binary_cross_entropy_with_logits(z / temperature, share, reduction="none")
        return likelihood * people.to(z.dtype) if self.config.kind == "bradley_terry" else likelihood
