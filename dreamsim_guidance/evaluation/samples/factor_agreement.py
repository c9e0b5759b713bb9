"""Whether a sample shows what its reference shows, according to the independent judge.

    agreement(x, r) = share of the factors f that the judge can read for which judge_f(x) = f(r)

where f(r) is known if the reference is a scene, and is read by the judge if the reference is a picture. The agreement of a
scene's own picture with the scene is the judge's accuracy: no sample can be expected to reach more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.evaluation.samples.scene_judge import SceneJudge, factor_classes
from dreamsim_guidance.types import AnyImage, Distance

__all__ = ["agreement_by_factor", "factor_agreement"]


def factor_agreement(
    images: AnyImage, references: Sequence[Scene] | Scene | AnyImage, judge: SceneJudge | None = None
) -> Distance:
    """Return the share of the reference's factors that each image shows, `(b,)` in [0, 1]; larger means more similar.

    `images` are `(b, 3, h, w)` in [0, 1]; `references` are one scene or picture for all, or one for each. Raises
    ValueError for another number of references.
    """
    return torch.stack(list(agreement_by_factor(images, references, judge).values())).float().mean(0)


@torch.no_grad()
def agreement_by_factor(
    images: AnyImage, references: Sequence[Scene] | Scene | AnyImage, judge: SceneJudge | None = None
) -> dict[str, Tensor]:
    """Return, for each factor that the judge can read, whether each image shows the reference's: `(b,)` bool."""
    if judge is None:
        from dreamsim_guidance.evaluation.samples.scene_judge import load_judge

        judge = load_judge().to(images.device)
    if isinstance(references, Scene):
        references = [references]
    if len(references) not in (1, len(images)):
        raise ValueError(
            f"one reference for all or one for each of the {len(images)} images is needed, got {len(references)}."
        )
    if isinstance(references, Tensor):
        expected = judge.read(references.to(images))
    else:
        expected = {name: classes.to(images.device) for name, classes in factor_classes(references).items()}
    return {name: read == expected[name] for name, read in judge.read(images).items()}
