"""The pocket ensemble: three small branches that know scenes, made from nothing by this repository.

A scaled-down twin of the published ensemble, with the same differences between its branches (token, norm, activation,
projection): the DINO-like one learns by self-distillation, the two CLIP-like ones from pairs of drawings of one scene
and from captions, in two manners. Then the branches are balanced: a branch's weight in the metric is the spread of its
feature, so the projections of the CLIP-like ones are scaled until each spreads twice as far over held-out scenes as the
DINO-like one, which knows less.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from tqdm import tqdm

from dreamsim_guidance.checkpoints.model_file import write_model
from dreamsim_guidance.data.photographs import training_photographs
from dreamsim_guidance.data.scenes.drawing import contact_sheet, draw
from dreamsim_guidance.data.scenes.scene import Scene, random_variation, sample_scene, scene_generator, simplify, vary
from dreamsim_guidance.metric.backbones import CLIP_MEAN, CLIP_STD, Branch, BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.base_models import initialise
from dreamsim_guidance.training.checkpoint import fit
from dreamsim_guidance.training.pocket.contrastive import ContrastiveLearner
from dreamsim_guidance.training.pocket.distillation import DistillationLearner
from dreamsim_guidance.training.pocket.report import branch_agreement, draw_training, report
from dreamsim_guidance.training.pocket.settings import Contrastive, Distillation, PretrainPocket

log = logging.getLogger(__name__)

__all__ = [
    "Contrastive",
    "Distillation",
    "PretrainPocket",
    "balance",
    "draw_scenes",
    "pocket_branches",
    "pretrain",
    "train_branch",
]


def pretrain(settings: PretrainPocket, folder: Path) -> dict[str, Any]:
    """What `PretrainPocket.run` promises."""
    drawn = draw_scenes(settings.scenes, settings.family)
    some = drawn[1][:: max(1, len(drawn[0]) // 32)][:32, 0].float() / 255
    save_image(contact_sheet(some), folder / "scenes.png")
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
    """Branch j, trained from its checkpoint in `folder` on. Branches are independent: a process each is fine."""
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
    name, log = branch.config.name, _log(folder / "training.txt")

    def watch(step: int) -> None:
        log(f"{name} step {step} agreement {branch_agreement(learner.branch, 300):.3f} on 300 triplets of val")

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
    fit(learner, chosen.schedule, settings.seed + 100 * j, folder / f"{name}.pt", name, log, watch, made_of)
    return learner.branch


def pocket_branches(
    width: int = 128, depth: int = 4, heads: int = 4, projection: int = 128
) -> tuple[BranchConfig, ...]:
    """The three towers at 64 x 64 pixels: patches of 8 for the DINO-like one and of 16 for the others.

    The published ones have 16 and 32 at 224 x 224.
    """
    clip: dict[str, Any] = {"feature": "embedding", "mean": CLIP_MEAN, "std": CLIP_STD, "projection": projection}
    towers: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
        ("dino_pocket", "vit_base_patch16_224", 8, {}),
        ("clip_pocket", "vit_base_patch16_clip_quickgelu_224", 16, clip),
        ("open_clip_pocket", "vit_base_patch16_clip_224", 16, clip),
    )
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads}
    return tuple(
        BranchConfig(name, architecture, image_size=64, overrides={**sizes, "patch_size": patch}, **options)
        for name, architecture, patch, options in towers
    )


def draw_scenes(count: int, family: int = 4, size: int = 64) -> tuple[list[Scene], UInt8[Tensor, "n 2 3 h w"]]:
    """Scenes of the training split, each drawn twice with other seeds, in 8 bits (24 kB each at 64 x 64).

    Each `family` neighbours are one sampled scene and variations of it in one to three factors. The first half goes from
    easy scenes to full ones (`scenes.simplify`), the second half is full.
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
    """Scale the branches' projections until the first one, which has none, varies `first` times as much as each other.

    Returns the factors. One half did better than equal parts on the scenes for validation.

    The measure is the total variance of a branch's feature over held-out scenes, each centred over its own dimensions,
    since the common part of all pictures' features tells no two pictures apart.
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


def _log(path: Path) -> Callable[[str], None]:
    def write(line: str) -> None:
        log.debug(line)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return write
