"""Retrieval: which metric finds the right pictures.

    dreamsim-guidance run evaluate-retrieval                                            # scenes and crops, offline
    dreamsim-guidance run evaluate-retrieval folder=pictures metrics=photographs,mse    # a folder for each class
    dreamsim-guidance run retrieve-coco coco=/data/coco
    dreamsim-guidance run retrieve-imagenet-r imagenet_r=/data/imagenet-r
    dreamsim-guidance run compare-retrieval pictures=photos                             # three networks on one page

`docs/retrieval_evaluation.md` defines the measures and has the figures.
"""

from __future__ import annotations

from pathlib import Path

from dreamsim_guidance.comparisons.retrieval_comparison import RetrievalComparison
from dreamsim_guidance.comparisons.retrieval_evaluation import RetrievalEvaluation
from dreamsim_guidance.experiment.registry import recipe

_PAPER = ("ensemble", "dino", "open_clip", "clip")


@recipe
def evaluate_retrieval() -> RetrievalEvaluation:
    """Evaluate metrics on retrieval with known answers: mean average precision, recall and hits at k, with intervals."""
    return RetrievalEvaluation()


@recipe
def retrieve_coco() -> RetrievalEvaluation:
    """Evaluate retrieval among 30,000 pictures of MS-COCO; not yet measured: neither the set nor the weights were at hand.

    DreamSim's paper searches MS-COCO too; which pictures it drew is not known, so its figures cannot be repeated exactly.
    """
    return RetrievalEvaluation(metrics=_PAPER, coco=Path("coco"), coco_split="train2017", coco_pictures=30_000)


@recipe
def retrieve_imagenet_r() -> RetrievalEvaluation:
    """Evaluate retrieval of the same class in ImageNet-R; not yet measured: neither the set nor the weights were at hand."""
    return RetrievalEvaluation(metrics=_PAPER, imagenet_r=Path("imagenet-r"))


@recipe
def compare_retrieval() -> RetrievalComparison:
    """Show the nearest pictures by a texture network, a semantic network and this metric side by side, on one page."""
    return RetrievalComparison()
