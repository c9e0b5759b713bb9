"""Pre-training of the pocket ensemble: three small branches that know procedural scenes, from random weights.

It is a small copy of the published ensemble, with the same differences between its branches (token, norm, activation,
projection). The DINO-like branch learns by self-distillation. The two CLIP-like branches learn from pairs of drawings of one
scene and from captions, each with its own manner of captions. Then the branches are balanced: the weight of a branch in the
metric is the spread of its feature, so the projections of the CLIP-like branches are scaled until their features spread twice
as far over held-out scenes as the feature of the DINO-like branch, which is the weakest of the three.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from tqdm import tqdm

from dreamsim_guidance.checkpoints.model_file import write_model
from dreamsim_guidance.data.photographs import training_photographs
from dreamsim_guidance.data.scenes.drawing import draw, picture_grid
from dreamsim_guidance.data.scenes.scene import Scene, sample_scene, scene_generator
from dreamsim_guidance.data.scenes.variations import random_variation, simplify, vary
from dreamsim_guidance.metric.backbones import CLIP_MEAN, CLIP_STD, Branch, BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.base_models import initialise
from dreamsim_guidance.training.fit import fit
from dreamsim_guidance.training.pocket.contrastive import ContrastiveLearner
from dreamsim_guidance.training.pocket.distillation import DistillationLearner
from dreamsim_guidance.training.pocket.report import branch_agreement, report
from dreamsim_guidance.training.pocket.settings import Distillation, PretrainPocket
from dreamsim_guidance.training.pocket.training_log import draw_training, line_writer

__all__ = ["balance", "draw_scenes", "pocket_branches", "pretrain", "train_branch"]


def pretrain(settings: PretrainPocket, folder: Path) -> dict[str, Any]:
    """Carry out `PretrainPocket.run`."""
    drawn = draw_scenes(settings.scenes, settings.family)
    examples = drawn[1][:: max(1, len(drawn[0]) // 32)][:32, 0].float() / 255
    save_image(picture_grid(examples), folder / "scenes.png")
    ensemble = Ensemble([train_branch(settings, j, folder, drawn) for j in range(3)]).eval().requires_grad_(False)
    balance(ensemble)
    results = report(ensemble, settings.triplets)
    results["parameters"] = sum(p.numel() for p in ensemble.parameters())
    card = {
        "name": "pocket",
        "source": "procedural scenes drawn by dreamsim_guidance"
        + (" and photographs bundled with scikit-image" if settings.photographs else ""),
        "licence": "MIT",
        "recipe": "pretrain-pocket",
        "seed": settings.seed,
        "knows": "scenes, not the world",
        "normalize_embeds": True,
        "reference": results,
    }
    write_model(ensemble, folder / "pocket.safetensors", card, dtype=torch.float16)
    draw_training(folder / "training.txt", folder / "training.png")
    return results


def train_branch(
    settings: PretrainPocket, j: int, folder: Path, drawn: tuple[list[Scene], Tensor] | None = None
) -> Branch:
    """Train branch `j` (0 DINO-like, 1 and 2 CLIP-like) from its checkpoint in `folder` on; return it.

    Branches are independent of each other, so that each may be trained in its own process. `drawn` is the result of
    `draw_scenes`; None draws the scenes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed + j)
    branch = Branch(pocket_branches(settings.width, settings.depth, settings.heads, settings.projection)[j])
    initialise(branch)
    scenes, pictures = drawn or draw_scenes(settings.scenes, settings.family)
    photographs = training_photographs() if settings.photographs else {}
    chosen = (settings.dino, settings.clip, settings.open_clip)[j]
    learner: ContrastiveLearner | DistillationLearner
    if isinstance(chosen, Distillation):
        learner = DistillationLearner(
            branch,
            pictures,
            photographs,
            chosen.batch,
            chosen.photograph_crops,
            chosen.names,
            chosen.local_views,
        )
    else:
        learner = ContrastiveLearner(
            branch, scenes, pictures, photographs, chosen.batch, settings.family, chosen.manner, chosen.tau
        )
    learner.eval()  # there is no dropout; the towers' fast paths are those of evaluation
    name, write = branch.config.name, line_writer(folder / "training.txt")

    def watch(step: int) -> None:
        write(f"{name} step {step} agreement {branch_agreement(learner.branch, 300):.3f} on 300 triplets of val")

    data = (
        settings.scenes,
        settings.family,
        settings.width,
        settings.depth,
        settings.heads,
        settings.projection,
        sorted(photographs),
    )
    made_of = f"{chosen} of {data}"
    fit(learner, chosen.schedule, settings.seed + 100 * j, folder / f"{name}.pt", name, write, watch, made_of)
    return learner.branch


def pocket_branches(
    width: int = 128, depth: int = 4, heads: int = 4, projection: int = 128
) -> tuple[BranchConfig, ...]:
    """The three towers for 64 x 64 pixels, with patches of 8 (DINO-like) and 16 pixels (CLIP-like).

    The published ones have patches of 16 at 224 x 224 pixels.
    """
    clip: dict[str, Any] = {"feature": "embedding", "mean": CLIP_MEAN, "std": CLIP_STD, "projection": projection}
    towers: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
        ("dino_pocket", "vit_base_patch16_224", 8, {"feature": "cls"}),
        ("clip_pocket", "vit_base_patch16_clip_quickgelu_224", 16, clip),
        ("open_clip_pocket", "vit_base_patch16_clip_224", 16, clip),
    )
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads}
    return tuple(
        BranchConfig(name, architecture, image_size=64, overrides={**sizes, "patch_size": patch}, **options)
        for name, architecture, patch, options in towers
    )


def draw_scenes(count: int, family: int = 4, size: int = 64) -> tuple[list[Scene], UInt8[Tensor, "n 2 3 h w"]]:
    """Sample scenes of the training split and draw each twice, with different seeds, in 8 bits (24 kB each at 64 x 64).

    Every `family` consecutive scenes are a sampled scene and variations of it in one to three factors. Difficulty grows
    over the first half, from simplified scenes (`scene.simplify`) to full ones; the second half has full scenes.
    """
    scenes: list[Scene] = []
    pictures = torch.empty(count // family * family, 2, 3, size, size, dtype=torch.uint8)
    for number in tqdm(range(count // family), desc="drawing scenes", mininterval=1.0):
        generator = scene_generator(number)
        difficulty = min(1.0, 2 * number * family / count)
        first = simplify(sample_scene(generator), difficulty, generator)
        for scene in [
            first,
            *(
                simplify(random_variation(first, generator, 3), max(difficulty, 0.3), generator)
                for _ in range(family - 1)
            ),
        ]:
            pair = torch.cat([draw(scene, size), draw(vary(scene, (), 1.0, generator), size)])
            pictures[len(scenes)] = (pair * 255).round().byte()
            scenes.append(scene)
    return scenes, pictures


def balance(ensemble: Ensemble, count: int = 512, first: float = 0.5) -> tuple[float, ...]:
    """Scale the projections of the branches until the first branch, which has none, spreads `first` times as far as each.

    The spread is the standard deviation, over all dimensions together, of a branch's feature over `count` scenes of the
    split "val". With `first` 1/2 the metric agreed better with the factors there than with 1.

    Returns the factors.
    """
    pictures = torch.cat([draw(sample_scene(scene_generator(i, "val"))) for i in range(count)])
    spreads = []
    with torch.no_grad():
        for branch in ensemble.branches:
            features = branch(pictures)
            spreads.append(float((features - features.mean(0)).square().sum(1).mean().sqrt()))
        factors = (1.0, *(spreads[0] / (first * spread) for spread in spreads[1:]))
        for branch, factor in zip(ensemble.branches, factors, strict=True):
            if isinstance(branch.projection, nn.Parameter):
                branch.projection.mul_(factor)
    return factors
