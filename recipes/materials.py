"""Tuning on human judgments of materials: a small network from nothing, on real votes, in minutes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamsim_guidance.recipes.registry import recipe
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.training.base_models import Scratch
from dreamsim_guidance.training.loop import Loop
from dreamsim_guidance.training.optimiser import Optimiser
from dreamsim_guidance.training.tuning import Tuning
from dreamsim_guidance.training.vote_losses import VoteLossConfig


@recipe
def train_materials() -> Tuning:
    """Train a small Vision Transformer from nothing on people's judgments of materials.

    TODO
    """
    return Tuning(
        data=Path("materials"),
        model="scratch",
        scratch=Scratch(size=64, width=128, depth=4, heads=4, patch=8),
        lora=None,
        all_weights=True,
        loss=VoteLossConfig(kind="bradley_terry", temperature=0.1),
        loop=Loop(
            optimiser=Optimiser(
                kind="adamw",
                learning_rate=5e-4,
                betas=(0.9, 0.98),
                weight_decay=0.05,
                schedule="cosine",
                warmup=50,
                clip=1.0,
            ),
            batch=2048,
            steps=800,
            average=0.98,
            validate_every=50,
            workers=0,
        ),
        normalize_embeds=True,
        seed=0,
    )


@recipe
def train_materials_augmented() -> Tuning:
    """Train on materials with augmented pictures, for renderings that the votes do not cover.

    TODO
    """
    return replace(
        train_materials(), augmentation=Augmentation(crop=0.6, degrees=15.0, brightness=0.2, contrast=0.1, saturation=0.1)
    )
