"""What is tuned: a published variant, the pocket ensemble, a model file, a modern ensemble, or a small one from nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble

__all__ = ["MODERN", "Scratch", "base_metric", "initialise"]

_HALF = (0.5, 0.5, 0.5)

MODERN = (
    BranchConfig("dinov3_vitb16", "vit_base_patch16_dinov3", image_size=256, tag="lvd1689m"),
    BranchConfig(
        "siglip2_vitb16",
        "vit_base_patch16_siglip_256",
        feature="pooled",
        image_size=256,
        mean=_HALF,
        std=_HALF,
        tag="v2_webli",
    ),
    BranchConfig(
        "pe_core_vitb16",
        "vit_pe_core_base_patch16_224",
        feature="pooled",
        image_size=224,
        mean=_HALF,
        std=_HALF,
        tag="fb",
    ),
)
"""DINOv3 (Siméoni et al., 2025), SigLIP 2 (Tschannen et al., 2025), Perception Encoder (Bolya et al., 2025), all by timm."""


@dataclass(frozen=True)
class Scratch:
    """A small Vision Transformer with random weights, `size` x `size` pixels."""

    size: int = 64
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch: int = 8
    drop_path: float = 0.0
    """Stochastic depth: the last block's share of skipped pictures in training; it grows linearly from the first."""

    def __post_init__(self) -> None:
        if min(self.size, self.width, self.depth, self.heads, self.patch) < 1 or not 0 <= self.drop_path < 1:
            raise ValueError(f"sizes must be at least 1 and drop_path lie in [0, 1), got {self}.")
        if self.size % self.patch or self.width % self.heads or self.width % 4:
            raise ValueError(
                f"size must be a multiple of patch, width of heads and of 4, got size={self.size}, patch={self.patch}, "
                f"width={self.width}, heads={self.heads}."
            )

    def branch(self) -> BranchConfig:
        sizes: dict[str, Any] = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        options = {**sizes, "patch_size": self.patch, "drop_path_rate": self.drop_path}
        return BranchConfig(
            "scratch", "vit_base_patch16_224", image_size=self.size, mean=_HALF, std=_HALF, overrides=options
        )


def base_metric(
    model: str | Scratch,
    weights: Path | None = None,
    pretrained: bool = True,
    normalize_embeds: bool = False,
) -> DreamSim:
    """The un-tuned metric. `model` is a variant, "pocket", "modern", a model file, or a `Scratch`.

    Without `pretrained` the weights are random: for dry runs where nothing can be downloaded.
    """
    if isinstance(model, Scratch):
        branch = Branch(model.branch())
        initialise(branch)
        return DreamSim(Ensemble([branch]), normalize_embeds=normalize_embeds)
    if model == "scratch":
        raise ValueError("a model from nothing needs its sizes; set scratch=Scratch(...).")
    own = model in ("pocket", "modern") or Path(model).suffix == ".safetensors"
    if own and weights is not None:
        raise ValueError(f"weights are those of a published variant; '{model}' has its own, leave them out.")
    if own and model != "modern" and not pretrained:
        raise ValueError(f"'{model}' comes with its weights; pretrained=False is for what would be downloaded.")
    if model == "modern":
        return DreamSim([Branch(config, pretrained) for config in MODERN], normalize_embeds=normalize_embeds)
    if Path(model).suffix == ".safetensors":
        return DreamSim(model, normalize_embeds=normalize_embeds)
    if model == "pocket":
        return DreamSim(model, baseline=True, normalize_embeds=normalize_embeds)
    return DreamSim(
        model,
        weights=weights,
        pretrained=pretrained,
        baseline=pretrained,
        normalize_embeds=normalize_embeds,
    )


def initialise(branch: Branch) -> None:
    """Random weights for a narrow tower: timm's are made for wide ones, in which attention begins at once.

    Every matrix keeps the variance of its input, the two that write into a block's sum a quarter of it, and positions
    start as sines and cosines instead of almost alike.
    """
    tower = branch.backbone
    for module in tower.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    with torch.no_grad():
        for block in tower.blocks:
            block.attn.proj.weight.mul_(0.5)
            block.mlp.fc2.weight.mul_(0.5)
        side = math.isqrt(tower.pos_embed.shape[1] - 1)
        frequencies = math.pi * side ** torch.linspace(0, 1, tower.pos_embed.shape[2] // 4)
        place = (torch.arange(side) / side)[:, None] * frequencies
        rows, columns = place.repeat_interleave(side, 0), place.repeat(side, 1)
        waves = [wave(angle) for angle in (columns, rows) for wave in (torch.sin, torch.cos)]
        tower.pos_embed[0, 1:] = 0.5 * torch.cat(waves, 1)
