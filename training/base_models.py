"""What is tuned: a published variant, the pocket ensemble, a model file, a modern ensemble, or a small one from nothing."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.training.scratch import Scratch

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
