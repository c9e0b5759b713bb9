"""Cosine distance of CLIP or DINO image features, the untuned backbones that DreamSim starts from.

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
    """Cosine distance of CLIP image embeddings, one value per image in [0, 2].

    `CLIPCosine(image)` is a loss towards that image, `CLIPCosine()` is a loss on pairs. Images lie in [0, 1] and may have
    any size; they are resized to the tower's.

    tower: "clip_vitb32", "clip_vitb16" or "clip_vitl14" (OpenAI's, downloaded by timm on first use), the config of any
        timm or open_clip tower with its `tag`, or a `Branch` or `Ensemble` with weights.

    Raises ValueError for an unknown name, OSError where the weights cannot be downloaded.
    """
    return bind(_FeatureCosine(_metric(tower, "clip"), "clip"), reference)


@overload
def DINOCosine(reference: Image, *, tower: Tower = "dino_vitb16") -> Loss: ...
@overload
def DINOCosine(reference: None = None, *, tower: Tower = "dino_vitb16") -> PairLoss: ...
def DINOCosine(reference: Image | None = None, *, tower: Tower = "dino_vitb16") -> Loss | PairLoss:
    """Cosine distance of DINO's class tokens after the last norm, one value per image in [0, 2]; see `CLIPCosine`.

    tower: "dino_vitb16", "dino_vitb8", "dino_vits16", "dino_vits8", "dinov2_vitb14", or as for `CLIPCosine`.
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
        towers = sorted(name for name in BRANCHES if name.startswith(family))
        if tower not in towers:
            raise ValueError(f"unknown {family} tower '{tower}'; known: {', '.join(towers)}, or give a BranchConfig.")
        config = BRANCHES[tower]
        # DreamSim takes DINO's class token before the last norm; as an image feature it is used after it
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
            "pass tower=Branch(...) with your own weights."
        ) from error
