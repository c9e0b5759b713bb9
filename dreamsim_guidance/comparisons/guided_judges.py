"""Judges of guided samples that took no part in the guidance, for one reference or several, under a mask.

What stands beside the guide's distance: the root mean square difference, 1 - SSIM, and whatever other metrics are asked
for; for pictures of the pocket scenes also the share of the reference's factors that a small classifier does not find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dreamsim_guidance.evaluation.samples.factor_agreement import factor_agreement
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge
from dreamsim_guidance.guidance.judges import dissimilarity, rms
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.types import AnyImage, Mask

__all__ = ["Judge", "judges"]

Judge = Callable[[Tensor], Tensor]


def judges(
    references: Sequence[AnyImage], reduction: str, mask: Mask | None, names: Sequence[str], scenes: bool, device: str
) -> dict[str, Judge]:
    """Functions from images `(b, 3, h, w)` to distances `(b,)`, smaller is better, by name.

    names: further judges: variants or files of DreamSim, "lpips", "dists". scenes: whether the pictures are pocket scenes.
    """
    found: dict[str, Judge] = {
        "rms": partial(_towards, references, reduction, partial(rms, mask=mask)),
        "1 - ssim": partial(_towards, references, reduction, partial(dissimilarity, mask=mask)),
    }
    if scenes:
        from dreamsim_guidance.evaluation.samples.scene_judge import load_judge

        found["1 - factors"] = partial(_towards, references, reduction, partial(_missed, load_judge().to(device)))
    for name in names:
        found[name] = partial(_towards, references, reduction, _metric(name, mask, device))
    return found


Pair = Callable[[Tensor, Tensor], Tensor]


def _towards(references: Sequence[Tensor], reduction: str, pair: Pair, images: Tensor) -> Tensor:
    """The pair's distance to every reference, brought to the images' size, and their mean or smallest."""
    own = [resize(one.to(images), (images.shape[-2], images.shape[-1])).clamp(0, 1) for one in references]
    distances = torch.stack([pair(images, one.expand_as(images)) for one in own])
    return distances.amin(0) if reduction == "min" else distances.mean(0)


def _missed(judge: SceneJudge, x: Tensor, y: Tensor) -> Tensor:
    return 1 - factor_agreement(x, y, judge)


def _metric(name: str, mask: Tensor | None, device: str) -> Pair:
    if name in ("lpips", "dists"):
        if mask is not None:
            raise ValueError(f"the judge {name} knows no mask; choose a DreamSim by name.")
        from dreamsim_guidance.losses import DISTS, LPIPS

        loss = LPIPS() if name == "lpips" else DISTS()
        return loss.to(device)
    from dreamsim_guidance.metric.dreamsim import DreamSim

    return partial(_compared, DreamSim(name, device=device), mask)


def _compared(metric: torch.nn.Module, mask: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    return metric(x, y, mask)
