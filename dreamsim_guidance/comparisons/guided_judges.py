"""Judges of guided samples: metrics that took no part in the guidance, for one or several references, under a mask.

The judges are the root mean square difference, 1 - SSIM, and any further metrics that are asked for; they are reported next to
the distance that guides.
For pictures of the pocket scenes there is also the share of the reference's factors that a small classifier does not find.
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

__all__ = ["JudgeFunction", "judges"]

JudgeFunction = Callable[[Tensor], Tensor]
"""From images `(b, 3, h, w)` in [0, 1] to their distances from the reference, `(b,)`."""


def judges(
    references: Sequence[AnyImage], reduction: str, mask: Mask | None, names: Sequence[str], scenes: bool, device: str
) -> dict[str, JudgeFunction]:
    """Distances to the references by name; smaller means more alike.

    references: one batch of one image for each reference, of any size.
    reduction: "mean" or "min" of the distances to several references.
    mask: `(1, 1, h, w)` in [0, 1], 1 where the reference counts; None counts everything.
    names: further judges: variants or files of DreamSim, "lpips", "dists".
    scenes: whether the pictures are pocket scenes, so that the classifier of their factors can judge them too.

    Raises ValueError for a mask with "lpips" or "dists", which accept none.
    """
    functions: dict[str, JudgeFunction] = {
        "rms": partial(_distance_to_references, references, reduction, partial(rms, mask=mask)),
        "1 - ssim": partial(_distance_to_references, references, reduction, partial(dissimilarity, mask=mask)),
    }
    if scenes:
        from dreamsim_guidance.evaluation.samples.scene_judge import load_judge

        missed = partial(_missed_factors, load_judge().to(device))
        functions["1 - factors"] = partial(_distance_to_references, references, reduction, missed)
    for name in names:
        functions[name] = partial(_distance_to_references, references, reduction, _metric(name, mask, device))
    return functions


PairDistance = Callable[[Tensor, Tensor], Tensor]


def _distance_to_references(
    references: Sequence[Tensor], reduction: str, distance: PairDistance, images: Tensor
) -> Tensor:
    """The mean or smallest distance of each image to the references, which are resized to the images."""
    resized = [resize(each.to(images), (images.shape[-2], images.shape[-1])).clamp(0, 1) for each in references]
    distances = torch.stack([distance(images, each.expand_as(images)) for each in resized])
    return distances.amin(0) if reduction == "min" else distances.mean(0)


def _missed_factors(judge: SceneJudge, x: Tensor, y: Tensor) -> Tensor:
    return 1 - factor_agreement(x, y, judge)


def _metric(name: str, mask: Tensor | None, device: str) -> PairDistance:
    if name in ("lpips", "dists"):
        if mask is not None:
            raise ValueError(f"the judge {name} accepts no mask; choose a DreamSim by name.")
        from dreamsim_guidance.losses import DISTS, LPIPS

        loss = LPIPS() if name == "lpips" else DISTS()
        return loss.to(device)
    from dreamsim_guidance.metric.dreamsim import DreamSim

    return partial(_compare, DreamSim(name, device=device), mask)


def _compare(metric: torch.nn.Module, mask: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    return metric(x, y, mask)
