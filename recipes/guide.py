"""Sheets of guided samples, for the pocket models and for published ones."""

from __future__ import annotations

from dataclasses import replace

from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.experiment.registry import recipe


@recipe
def guide_pocket() -> GuidedSheet:
    """Guide the pocket pixel model to a held-out scene by FreeDoM, the best method for it (docs/results.md)."""
    return GuidedSheet(model="pocket", n=8, method="freedom")


@recipe
def guide_sd15() -> GuidedSheet:
    """Guide Stable Diffusion 1.5 to a photograph of a cat; needs downloads and a GPU; not run yet."""
    return GuidedSheet(model="sd15", prompt="a photo of a cat on a sofa", judges=("dinov2_vitb14",), taesd=True)


@recipe
def guide_sdxl() -> GuidedSheet:
    """Guide Stable Diffusion XL to a photograph of a cat; needs downloads and a GPU; not run yet."""
    return replace(guide_sd15(), model="sdxl")


@recipe
def guide_sdxl_turbo() -> GuidedSheet:
    """Guide SDXL Turbo in four steps; needs downloads and a GPU; not run yet."""
    return replace(guide_sd15(), model="sdxl-turbo")


@recipe
def guide_sd35() -> GuidedSheet:
    """Guide Stable Diffusion 3.5 medium; needs downloads and a GPU; not run yet."""
    return replace(guide_sd15(), model="sd35")


@recipe
def guide_flux() -> GuidedSheet:
    """Guide FLUX.1 dev; needs downloads and a large GPU; not run yet."""
    return replace(guide_sd15(), model="flux")
