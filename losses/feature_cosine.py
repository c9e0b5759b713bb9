"""Cosine distance of CLIP or DINO image features: the un-tuned backbones that DreamSim starts from.

    d(x, y) = 1 - cos(f(x), f(y)),   computed as half the squared chord of the unit features

Radford et al., Learning transferable visual models from natural language supervision, ICML 2021.
Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021.
"""

from __future__ import annotations

from dataclasses import replace
from typing import overload

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.dreamsim_loss import DreamSimLoss
from dreamsim_guidance.losses.pair import bind
from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import BRANCHES
from dreamsim_guidance.types import Image

__all__ = ["CLIPCosine", "DINOCosine"]

Tower = str | BranchConfig | Branch | Ensemble


@overload
def CLIPCosine(reference: Image, *, tower: Tower = "clip_vitb32") -> Loss: ...
@overload
def CLIPCosine(reference: None = None, *, tower: Tower = "clip_vitb32") -> PairLoss: ...
def CLIPCosine(reference: Image | None = None, *, tower: Tower = "clip_vitb32") -> Loss | PairLoss:
    """Cosine distance of CLIP image embeddings, in [0, 2]; images in [0, 1] of any size, squashed to the tower's.

    `tower`: "clip_vitb32", "clip_vitb16", "clip_vitl14" (OpenAI's, downloaded by timm on first use; OSError without a
    connection), the config of any timm or open_clip tower with its `tag`, or a `Branch` or `Ensemble` that has weights.
    `CLIPCosine(image)` is a loss towards that image, `CLIPCosine()` one on pairs.
    """
    return bind(_FeatureCosine(_metric(tower, "clip"), "clip"), reference)


@overload
def DINOCosine(reference: Image, *, tower: Tower = "dino_vitb16") -> Loss: ...
@overload
def DINOCosine(reference: None = None, *, tower: Tower = "dino_vitb16") -> PairLoss: ...
def DINOCosine(reference: Image | None = None, *, tower: Tower = "dino_vitb16") -> Loss | PairLoss:
    """Cosine distance of DINO's class tokens after the last norm; otherwise as `CLIPCosine`.

    `tower`: "dino_vitb16", "dino_vitb8", "dino_vits16", "dino_vits8" or "dinov2_vitb14" by name.
    """
    return bind(_FeatureCosine(_metric(tower, "dino"), "dino"), reference)


class _FeatureCosine(DreamSimLoss):
    def __init__(self, metric: DreamSim, name: str) -> None:
        super().__init__(metric)
        self.name = name

    def against(self, reference: Image) -> Loss:
        return super().against(reference).named(self.name)


def _metric(tower: Tower, family: str) -> DreamSim:
    if isinstance(tower, str):
        known = sorted(name for name in BRANCHES if name.startswith(family))
        if tower not in known:
            raise ValueError(f"unknown {family} tower '{tower}'; known: {', '.join(known)}, or give a BranchConfig.")
        config = BRANCHES[tower]
        # DreamSim reads DINO's token before the norm; as a feature of its own it is used after it
        tower = config if config.feature == "embedding" else replace(config, feature="last_layer")
    if isinstance(tower, BranchConfig):
        tower = _download(tower)
    return DreamSim(tower if isinstance(tower, Ensemble) else Ensemble([tower]), normalize_embeds=False)


def _download(config: BranchConfig) -> Branch:
    if config.tag is None:
        raise ValueError(f"the tower '{config.name}' has no tag that names its weights; set one, or pass a Branch.")
    try:
        return Branch(config, pretrained=True)
    except OSError as error:
        from huggingface_hub.constants import HF_HUB_CACHE

        raise OSError(
            f"the tower '{config.name}' needs the weights {config.architecture}.{config.tag}, which are not cached and "
            f"could not be downloaded ({error}); load it once where there is a connection and copy {HF_HUB_CACHE}, or "
            "pass tower=Branch(...) with weights of your own."
        ) from error
