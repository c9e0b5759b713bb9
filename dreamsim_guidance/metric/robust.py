"""Robustly trained towers, published on the Hugging Face Hub. Not run by this library's authors, who had no access to it.

Each was tuned adversarially on ImageNet with the norm linf and the radius 4/255, by FARE (features stay where they were) or by
TeCoA (classification). Published agreement on NIGHTS, clean and under attack with linf 4/255, in percent (Croce et al.):

    tower                               as it is       with LoRA on NIGHTS
    FARE4 ViT-B/16 (CLIP, LAION-2B)     90.6 / 71.5    95.7 / 80.9
    TeCoA4 ViT-B/16 (CLIP, LAION-2B)    91.9 / 79.4    94.6 / 81.5
    DreamSim's ensemble with LoRA                      96.2 / 0.5

"robust" joins both with DINO ViT-B/16 tuned by FARE, as DreamSim's ensemble does; no figure of this combination is published.
"robust_fare" and "robust_tecoa" are the single towers of the table. The recipe train-robust-lora tunes them on NIGHTS.

Schlarmann et al., Robust CLIP, ICML 2024 (FARE); Mao et al., Understanding Zero-Shot Adversarial Robustness for Large-Scale
Models, ICLR 2023 (TeCoA); Croce et al., Adversarially Robust CLIP Models Can Induce Better (Robust) Perceptual Metrics, SaTML
2025.
"""

from __future__ import annotations

from collections.abc import Mapping

from dreamsim_guidance.metric.branch_config import CLIP_MEAN, CLIP_STD, BranchConfig
from dreamsim_guidance.metric.tower_weights import TowerWeights

__all__ = ["ROBUST"]


def _clip(name: str, repository: str) -> BranchConfig:
    # timm's tower instead of open_clip's own: LoRA finds its layers, and timm converts the tensors
    place = f"hf-hub:chs20/{repository}/open_clip_model.safetensors"
    return BranchConfig(
        name,
        "vit_base_patch16_clip_224",
        feature="embedding",
        projection=512,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        weights=TowerWeights(place, licence="MIT"),
        weight=1.0,
    )


_FARE = _clip("fare4_vitb16", "FARE4-ViT-B-16-laion2B-s34B-b88K")
_TECOA = _clip("tecoa4_vitb16", "TeCoA4-ViT-B-16-laion2B-s34B-b88K")
_DINO = BranchConfig(
    "dino_fare4_vitb16", "vit_base_patch16_224", weights=TowerWeights("hf-hub:chs20/dino-vitb16-fare4"), weight=1.0
)

ROBUST: Mapping[str, tuple[BranchConfig, ...]] = {
    "robust": (_DINO, _FARE, _TECOA),
    "robust_fare": (_FARE,),
    "robust_tecoa": (_TECOA,),
}
"""The branches of each by name."""
