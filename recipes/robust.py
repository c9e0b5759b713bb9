"""A metric for photographs that is hard to fool, and whether such metrics guide better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamsim_guidance.comparisons.robust_guides import RobustGuides
from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.training.adversarial import Adversarial
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig


@recipe
def tune_photographs_robust() -> Tuning:
    """Tune "photographs" with LoRA on votes, while an adversary tries to move its features.

    data=... is any set of triplets. Not run to the end: the machine at hand managed half a picture a second, forward and
    backward. "photographs" itself keeps none of 32 decisions under linf 1/255.
    """
    return Tuning(
        data=Path("shoes"),
        model="photographs",
        lora=LoRA(rank=8, alpha=8.0, dropout=0.0),
        loss=VoteLossConfig("logistic", temperature=0.05),
        loop=Loop(
            optimiser=Optimiser(
                kind="adamw", learning_rate=5e-4, betas=(0.9, 0.98), schedule="cosine", warmup=5, clip=1.0
            ),
            batch=8,
            steps=60,
            validate_every=30,
            save_every=10,
            workers=0,
        ),
        normalize_embeds=True,
        adversarial=Adversarial("features", steps=1),
        least_votes=1,
        seed=0,
    )


@recipe
def compare_robust_guides() -> RobustGuides:
    """Guide the pocket pixel model by the pocket metric, by it under 8 random views, and by the robust pocket metric.

    Where the guide's distance has dropped by 70 %, a judge that took no part sees a drop of 20 % (95 % interval 11 to 28), 26
    (19 to 34) and 23 (15 to 30). It took 15 minutes with a part of one core of an AMD EPYC (AVX-512), torch 2.14.1.
    """
    return RobustGuides()


@recipe
def compare_robust_pixels() -> RobustGuides:
    """Optimise the pixels of images by the same three, without a generator that keeps them natural.

    Where the guide's distance has dropped by 70 %, a judge that took no part sees a drop of 13 % (95 % interval 9 to 18), 32
    (23 to 40) and 19 (16 to 23). It took 4 minutes with a part of one core of an AMD EPYC (AVX-512), torch 2.14.1.
    """
    return replace(compare_robust_guides(), through="pixels", n=1, levels=(3.0, 6.0, 12.0, 24.0, 40.0))


@recipe
def compare_robust_guides_tiny() -> RobustGuides:
    """Compare two guides on a few images in seconds, for tests and to see what a run folder holds."""
    return RobustGuides(views=2, levels=(0.01, 1.0), drops=(0.1,), references=2, n=1, steps=3, resamples=100)
