"""The published variants of DreamSim: their branches, files, and figures.

Fu et al., DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, NeurIPS 2023;
Sundaram et al., When Does Perceptual Alignment Benefit Vision Representations?, NeurIPS 2024 (patch variants).
Two-alternative agreement on NIGHTS (validation, test; in percent) as published in the original's README, October 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dreamsim_guidance.metric.branch_config import CLIP_MEAN, CLIP_STD, BranchConfig
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS
from dreamsim_guidance.metric.robust import ROBUST

__all__ = ["BRANCHES", "RELEASES", "VARIANTS", "Variant", "variant"]

RELEASES = "https://github.com/ssundaram21/dreamsim/releases/download"
"""Where the original publishes its zips, as `{RELEASES}/v0.2.0-checkpoints/dreamsim_ensemble_checkpoint.zip`."""


@dataclass(frozen=True)
class Variant:
    """A published model.

    adapter: folder of its LoRA weights in the zip. release: tag of the release that holds the zip.
    agreement: published agreement with people on NIGHTS, in percent, by split.
    """

    name: str
    branches: tuple[BranchConfig, ...]
    adapter: str
    release: str
    agreement: Mapping[str, float]

    @property
    def url(self) -> str:
        return f"{RELEASES}/{self.release}/dreamsim_{self.name}_checkpoint.zip"


def _dino(name: str, architecture: str, tag: str = "dino") -> BranchConfig:
    return BranchConfig(name, architecture, feature="cls", tag=tag)


def _clip(name: str, architecture: str, projection: int = 512) -> BranchConfig:
    tag = "openai" if "quickgelu" in architecture else None
    return BranchConfig(
        name, architecture, feature="embedding", mean=CLIP_MEAN, std=CLIP_STD, projection=projection, tag=tag
    )


BRANCHES: Mapping[str, BranchConfig] = {
    branch.name: branch
    for branch in (
        _dino("dino_vits8", "vit_small_patch8_224"),
        _dino("dino_vits16", "vit_small_patch16_224"),
        _dino("dino_vitb8", "vit_base_patch8_224"),
        _dino("dino_vitb16", "vit_base_patch16_224"),
        # the checkpoint's position grid is 37 x 37; it is resampled to the 16 x 16 of 224 pixels at every size
        BranchConfig(
            "dinov2_vitb14", "vit_base_patch14_dinov2", feature="cls", overrides={"img_size": 518}, tag="lvd142m"
        ),
        BranchConfig("synclr_vitb16", "vit_base_patch16_224", feature="cls"),
        _clip("clip_vitb16", "vit_base_patch16_clip_quickgelu_224"),
        _clip("clip_vitb32", "vit_base_patch32_clip_quickgelu_224"),
        _clip("clip_vitl14", "vit_large_patch14_clip_quickgelu_224", projection=768),
        _clip("open_clip_vitb16", "vit_base_patch16_clip_224"),
        _clip("open_clip_vitb32", "vit_base_patch32_clip_224"),
        _clip("open_clip_vitl14", "vit_large_patch14_clip_224", projection=768),
        _dino("mae_vitb16", "vit_base_patch16_224", tag="mae"),
        _dino("mae_vitl16", "vit_large_patch16_224", tag="mae"),
        _dino("mae_vith14", "vit_huge_patch14_224", tag="mae"),
    )
}
"""Every tower that the original can build, by the original's name."""


def _single(name: str, release: str, val: float, test: float, patch: bool = False) -> Variant:
    branch = BRANCHES[name]
    if patch:
        branch = replace(branch, feature="cls_patch")
    kind = "patch" if patch else "single"
    return Variant(
        f"{name}_patch" if patch else name, (branch,), f"{name}_{kind}_lora", release, {"val": val, "test": test}
    )


_V020, _V021 = "v0.2.0-checkpoints", "v0.2.1-checkpoints"

VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "ensemble",
            (BRANCHES["dino_vitb16"], BRANCHES["clip_vitb16"], BRANCHES["open_clip_vitb16"]),
            "ensemble_lora",
            _V020,
            {"val": 96.9, "test": 96.2},
        ),
        _single("dino_vitb16", _V020, 95.6, 94.8),
        _single("clip_vitb32", _V020, 94.9, 93.6),
        _single("open_clip_vitb32", _V020, 95.6, 95.3),
        _single("dinov2_vitb14", _V021, 94.9, 95.0),
        _single("synclr_vitb16", _V021, 96.0, 95.9),
        _single("dino_vitb16", _V021, 94.9, 94.8, patch=True),
        _single("dinov2_vitb14", _V021, 95.5, 95.1, patch=True),
    )
}
"""The eight published models by name."""


def variant(name: str) -> Variant:
    """The published variant of that name. Raises ValueError, which lists the known ones, for another name."""
    if name not in VARIANTS:
        raise ValueError(
            f"unknown variant '{name}'; known: {', '.join([*sorted(VARIANTS), *PHOTOGRAPHS, *ROBUST])}, pocket, "
            "pocket_robust."
        )
    return VARIANTS[name]
