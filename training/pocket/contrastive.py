"""Contrastive pre-training of a vision tower on pictures and their captions.

In a batch of n pairs, each picture has to find its caption among all captions, and each caption its picture. In the same way,
two drawings of one scene have to find each other:

    loss(u, v) = (KL(q || softmax(s u v^T)) + KL(q || softmax(s v u^T))) / 2,   q_ij ~ exp(-d_ij / tau),

with unit embeddings u, v and a learned scale s. With q the identity this is CLIP's loss. Here a caption also matches scenes
near its own, by their factor distance d, so that a change of a factor counts by the factor's weight and not by the number of
pixels it changes. The text tower, a small transformer over words, is used in training only.

Radford et al., Learning transferable visual models from natural language supervision, ICML 2021; soft targets: Gao et
al., SoftCLIP, AAAI 2024; the pairs of pictures: Mu et al., SLIP, ECCV 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from dreamsim_guidance.data.photographs import Photographs
from dreamsim_guidance.data.scenes.captions import Manner, caption, tokenise, vocabulary
from dreamsim_guidance.data.scenes.factors import FactorTable
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.training.fit import Learner
from dreamsim_guidance.training.pocket.distillation import easy_first
from dreamsim_guidance.views import random_crop, random_squares

__all__ = ["ContrastiveLearner", "TextTower", "info_nce"]


def info_nce(
    u: Float[Tensor, "n d"], v: Float[Tensor, "n d"], scale: Tensor, targets: Float[Tensor, "n n"]
) -> Float[Tensor, ""]:
    """The loss above. Rows of `u` and `v` are normalised here; rows of `targets` sum to one."""
    logits = scale * F.normalize(u, dim=-1) @ F.normalize(v, dim=-1).T
    rows, columns = (F.kl_div(x.log_softmax(-1), targets, reduction="batchmean") for x in (logits, logits.T))
    return 0.5 * (rows + columns)


class TextTower(nn.Module):
    """A transformer over the words of `captions.vocabulary`: word numbers `(b, length)`, 0 for padding -> `(b, features)`."""

    def __init__(self, features: int, width: int = 64, depth: int = 2, length: int = 28) -> None:
        super().__init__()
        self.length = length
        self.words = nn.Embedding(len(vocabulary()) + 1, width, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, width, dtype=torch.float32))
        layer = nn.TransformerEncoderLayer(
            width, width // 32, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, features, bias=False)

    def forward(self, tokens: Int[Tensor, "b length"]) -> Float[Tensor, "b features"]:
        empty = tokens == 0
        x = self.blocks(self.words(tokens) + self.positions, src_key_padding_mask=empty)
        words = (~empty).unsqueeze(-1).to(x.dtype)
        return self.projection((self.norm(x) * words).sum(1) / words.sum(1).clamp(min=1))


class ContrastiveLearner(Learner):
    """A branch with its text tower, trained on batches of scenes and of photograph crops.

    Each scene has two drawings, which have to find each other although they differ in whatever the factors leave open, and a
    caption. Every `family` consecutive scenes differ in a few factors only and are in a batch together, so that every factor
    is needed to tell them apart. Two crops of a photograph are a pair too; its caption is "a photograph of <name>".

    Args:
        branch: the tower to train, with `feature="embedding"`.
        scenes, pictures: the scenes with their two drawings, as `ensemble.draw_scenes` returns them.
        photographs: each is in every batch; may be empty.
        batch: scenes in a batch.
        family: scenes that share all but a few factors.
        manner: of the captions, "sentence" or "tags".
        tau: factor distance at which the target of a pair falls to 1/e.

    Raises ValueError for a branch without a projection.
    """

    def __init__(
        self,
        branch: Branch,
        scenes: Sequence[Scene],
        pictures: UInt8[Tensor, "n 2 3 h w"],
        photographs: Photographs,
        batch: int,
        family: int,
        manner: Manner,
        tau: float,
    ) -> None:
        super().__init__()
        if branch.projection is None:
            raise ValueError(
                f"branch '{branch.config.name}' has no projection; give feature='embedding', projection=..."
            )
        self.branch = branch
        self.text = TextTower(branch.projection.shape[1])
        self.log_scales = nn.Parameter(torch.full((2,), math.log(10.0), dtype=torch.float32))
        self.scenes, self.pictures, self.photographs = scenes, pictures, photographs
        self.batch, self.family, self.manner, self.tau = batch, family, manner, tau
        self.factors = FactorTable(scenes)

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        families = easy_first(len(self.scenes) // self.family, progress, self.batch // self.family, generator)
        chosen = (families[:, None] * self.family + torch.arange(self.family)).flatten()
        size = self.pictures.shape[-1]
        halves = [
            torch.cat([drawings, *(random_crop(image, size, generator) for image in self.photographs.values())])
            for drawings in (self.pictures[chosen].float() / 255).unbind(1)
        ]
        first, second = self.branch(random_squares(torch.cat(halves), size, (0.9, 1.0), generator)).chunk(2)
        captions = [caption(self.scenes[i], generator, self.manner) for i in chosen.tolist()]
        captions += [f"a photograph of {name}" for name in self.photographs]
        words = self.text(tokenise(captions, self.text.length))
        scales = self.log_scales.exp().clamp(max=100)
        targets = self._targets(chosen)
        return info_nce(first, second, scales[0], targets) + info_nce(first, words, scales[1], targets)

    def _targets(self, chosen: Int[Tensor, " b"]) -> Float[Tensor, "n n"]:
        """How well each picture matches each other one; a photograph has distance 1 from everything else."""
        count = len(chosen)
        distances = 1 - torch.eye(count + len(self.photographs), dtype=torch.float32)
        distances[:count, :count] = self.factors.distances(chosen)
        return (-distances / self.tau).softmax(-1)
