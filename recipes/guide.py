"""Sheets of guided samples, of the pocket models and of published ones."""

from __future__ import annotations

from dataclasses import replace

from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.experiment.registry import recipe


@recipe
def guide_pocket() -> GuidedSheet:
    """Guide the pocket pixel model to a held-out scene, by FreeDoM, which follows it best there (README)."""
    return GuidedSheet(model="pocket", n=8, method="freedom")


@recipe
def guide_sd15() -> GuidedSheet:
    """Guide Stable Diffusion 1.5 to a photograph of a cat; needs downloads and a GPU, and was not run here."""
    return GuidedSheet(model="sd15", prompt="a photo of a cat on a sofa", judges=("dinov2_vitb14",), taesd=True)


@recipe
def guide_sdxl() -> GuidedSheet:
    """Guide Stable Diffusion XL to a photograph of a cat; needs downloads and a GPU, and was not run here."""
    return replace(guide_sd15(), model="sdxl")


@recipe
def guide_sdxl_turbo() -> GuidedSheet:
    """Guide SDXL Turbo in four steps; needs downloads and a GPU, and was not run here."""
    return replace(guide_sd15(), model="sdxl-turbo")


@recipe
def guide_sd35() -> GuidedSheet:
    """Guide Stable Diffusion 3.5 medium; needs downloads and a GPU, and was not run here."""
    return replace(guide_sd15(), model="sd35")


@recipe
def guide_flux() -> GuidedSheet:
    """Guide FLUX.1 dev; needs downloads and a large GPU, and was not run here."""
    return replace(guide_sd15(), model="flux")
