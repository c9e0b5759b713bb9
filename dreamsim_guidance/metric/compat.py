"""The original package's entry point: change the import, keep the rest.

    from dreamsim_guidance import dreamsim
    model, preprocess = dreamsim(pretrained=True, device="cpu")
    distance = model(preprocess(a), preprocess(b))

Intended deviations: `device` defaults to an accelerator only where there is one, and to the CPU elsewhere; nothing is written
to the current directory unless `cache_dir` names it; nothing is printed; patch variants on images that are not square pool
the patches of the true grid (the original reshapes them to a square one, which scrambles channels).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from PIL import Image as PILImage

from dreamsim_guidance.files.pictures import rgb_of
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import to_image
from dreamsim_guidance.processes import default_device
from dreamsim_guidance.types import Image

__all__ = ["dreamsim", "preprocess"]


def dreamsim(
    pretrained: bool = True,
    device: str | torch.device | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    normalize_embeds: bool = True,
    dreamsim_type: str = "ensemble",
    use_patch_model: bool = False,
) -> tuple[DreamSim, Callable[[PILImage.Image], Image]]:
    """The metric and its preprocessing, with the signature and return values of `dreamsim.dreamsim` 0.2.1.

    pretrained: False leaves the adapter out, as in the original: the un-tuned branches.
    device: by default an accelerator if there is one (`processes.default_device`), else the CPU.
    cache_dir: folder that holds the weights or receives them; by default the library's cache.
    normalize_embeds: centre the embedding and scale it to length one.
    dreamsim_type: "ensemble", "dino_vitb16", "clip_vitb32", "open_clip_vitb32", "dinov2_vitb14" or "synclr_vitb16".
    use_patch_model: the variant with patch tokens ("dino_vitb16" and "dinov2_vitb14" only).

    Returns `(model, preprocess)`: `model(a, b) -> (b,)` and `model.embed(x)` on RGB tensors `(b, 3, h, w)` in [0, 1], which
    are not resized; `preprocess(pil) -> (1, 3, 224, 224)`, whose results are joined with `torch.cat`. Errors as in `DreamSim`.
    """
    model = DreamSim(
        f"{dreamsim_type}_patch" if use_patch_model else dreamsim_type,
        device=device or default_device(),
        cache_dir=cache_dir,
        baseline=not pretrained,
        resize=False,
        normalize_embeds=normalize_embeds,
    )
    return model, preprocess


def preprocess(picture: PILImage.Image) -> Image:
    """A PIL image, squashed to 224 x 224 by PIL's bicubic filter, as `(1, 3, 224, 224)` in [0, 1]."""
    return to_image(rgb_of(picture).resize((224, 224), PILImage.Resampling.BICUBIC))
