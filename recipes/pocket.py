"""Pre-training and tuning of the pocket ensemble that ships with this package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.training.adversarial import Adversarial
from dreamsim_guidance.training.fit_settings import FitSettings
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.pocket.settings import Contrastive, Distillation, PretrainPocket, TunePocket
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig


@recipe
def pretrain_pocket() -> PretrainPocket:
    """Pre-train the pocket ensemble on procedural scenes and write pocket.safetensors.

    On 2000 held-out triplets of scenes it agrees with the known factors in 73.4 % (95 % interval 71.3 to 75.2), its
    branches alone in 67.2 (DINO-like), 74.2 and 73.1 % (CLIP-like), MSE in 67.3 %, SSIM in 62.7 %. It took 57 minutes on
    2 cores of an AMD EPYC (Zen 3) that had other work, torch 2.15, with one process for each branch (`train_branch`). Two
    threads on cores without other work take 0.16 s for a step of a CLIP-like branch and 0.52 s for the DINO-like one.
    """
    words = FitSettings(steps=5000, learning_rate=1e-3, warmup=100, weight_decay=0.05, save_every=100, log_every=10)
    views = FitSettings(steps=1200, learning_rate=1e-3, warmup=50, weight_decay=0.04, save_every=100, log_every=10)
    return PretrainPocket(
        seed=0,
        scenes=24_000,
        family=4,
        width=128,
        depth=4,
        heads=4,
        projection=128,
        photographs=True,
        dino=Distillation(batch=48, photograph_crops=12, names=256, local_views=2, schedule=views),
        clip=Contrastive(manner="sentence", batch=64, tau=0.08, schedule=words),
        open_clip=Contrastive(manner="tags", batch=64, tau=0.08, schedule=words),
        triplets=2000,
    )


@recipe
def pretrain_pocket_tiny() -> PretrainPocket:
    """Pre-train a far smaller ensemble in seconds, for tests and to see what a run folder holds.

    Its 50 triplets are too few to tell its agreement with the factors from chance. It took 8 seconds on 2 cores.
    """
    schedule = FitSettings(steps=6, learning_rate=1e-3, warmup=2, weight_decay=0.05, save_every=2, log_every=1)
    words = Contrastive(manner="sentence", batch=16, tau=0.08, schedule=schedule)
    return replace(
        pretrain_pocket(),
        scenes=48,
        width=32,
        depth=2,
        heads=2,
        projection=16,
        dino=Distillation(batch=8, photograph_crops=2, names=32, local_views=1, schedule=schedule),
        clip=words,
        open_clip=replace(words, manner="tags"),
        triplets=50,
    )


@recipe
def train_pocket() -> TunePocket:
    """Tune the pocket ensemble with LoRA on drawn triplets, and judge it before and after.

    On 2000 new scenes it agrees with the simulated people in 77.1 % (95 % interval 75.3 to 78.8), 2.3 (1.0 to 3.5) more than
    before the tuning. Where a factor decides that no training triplet varies, agreement changes by -1.0 (-2.1 to 0.1), from
    88.0 to 87.0 %. It took 19 minutes with one thread of an AMD EPYC (Zen 3) that had other work, torch 2.15. The adapter
    that ships with the package is from this run.
    """
    return TunePocket(
        tuning=Tuning(
            data=Path("scenes"),
            model="pocket",
            lora=LoRA(rank=16, alpha=16.0, dropout=0.0, targets=("qkv", "attn.proj", "fc1", "fc2")),
            loss=VoteLossConfig("logistic", temperature=0.05),
            loop=Loop(
                optimiser=Optimiser(
                    kind="adamw",
                    learning_rate=7e-4,
                    betas=(0.9, 0.98),
                    weight_decay=0.05,
                    schedule="cosine",
                    warmup=30,
                    clip=1.0,
                ),
                batch=64,
                steps=400,
                average=0.98,
                validate_every=50,
                save_every=50,
                workers=0,
            ),
            normalize_embeds=True,
            seed=0,
        ),
        triplets=20_000,
        seed=0,
    )


@recipe
def train_pocket_robust() -> TunePocket:
    """Tune the pocket metric with LoRA on drawn triplets whose candidates an adversary changes by up to 4 grey levels.

    On 400 new scenes it agrees with the simulated people in 78.0 % (95 % interval 73.8 to 82.0), 1.0 (-2.0 to 4.0) more than
    "pocket"; under attack with linf 4/255 in 46 % (36 to 55) of 100, "pocket" in 33 % (24 to 42). The 110 steps took 13
    minutes with a third of a core of an AMD EPYC (AVX-512), torch 2.14.1. "pocket_robust" is from this run.
    """
    recipe = train_pocket()
    loop = replace(recipe.tuning.loop, batch=24, steps=110, average=0.95, validate_every=55, save_every=55)
    adversary = Adversarial("distance", radius=4 / 255, steps=1)
    return replace(
        recipe,
        tuning=replace(recipe.tuning, model="pocket_tuned", loop=loop, adversarial=adversary),
        triplets=4000,
        attacks=("linf:2/255", "linf:4/255", "linf:8/255", "linf:16/255"),
    )
