"""Drawn pictures for the analysis: scenes in which one factor changes at a time, and triplets with exact masks.

Everything that a factor does not decide (camera, light, jitter, patterns, grain) stays as it is, see `draw_with_mask`. For
comparison there is one further row, "redrawn": the same factors, with all of that drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from tqdm import tqdm

from dreamsim_guidance.data.judgments import Judgments, Triplet, gather
from dreamsim_guidance.data.scenes.drawing import draw_with_mask
from dreamsim_guidance.data.scenes.scene import (
    FACTORS,
    SYMMETRY,
    Scene,
    factor_distances,
    sample_scene,
    scene_generator,
)
from dreamsim_guidance.data.scenes.triplets import sample_triplets
from dreamsim_guidance.data.scenes.variations import vary

__all__ = ["REDRAWN", "FactorPictures", "Step", "draw_factor_pictures", "draw_triplet_pictures", "write_picture"]

AMOUNTS = (0.25, 0.5, 1.0)
KINDS = ("shape", "layout", "texture", "style")
"""Factors without an amount: one kind becomes another."""
REDRAWN = "redrawn"

Step = tuple[str, float]
"""A factor, and the amount by which it changes, in (0, 1]."""


@dataclass(frozen=True)
class FactorPictures:
    """Files of n scenes, and of each scene after each step.

    references: the n scenes. variants: by step, the n changed scenes.
    known: by step, how much the factor differs from the reference, in [0, 1]; the mean of `factor_distances` over the scenes.
    """

    references: tuple[Path, ...]
    variants: dict[Step, tuple[Path, ...]]
    known: dict[Step, float]


def draw_factor_pictures(folder: Path, count: int, size: int, progress: bool = True) -> FactorPictures:
    """Draw `count` scenes of the split "test" and their steps into the folder, `size` pixels wide.

    Only scenes whose shape looks different after every step of rotation are used.
    """
    scenes = _scenes(count)
    steps = [(factor, a) for factor in FACTORS for a in ((1.0,) if factor in KINDS else AMOUNTS)] + [(REDRAWN, 1.0)]
    references, variants, known = [], {step: [] for step in steps}, {step: [] for step in steps}  # type: ignore[var-annotated]
    for number, scene in enumerate(tqdm(scenes, desc="drawing scenes", unit="scene", disable=not progress)):
        file = folder / f"scene_{number:04d}.png"
        write_picture(draw_with_mask(scene, size, apart=True)[0], file)
        references.append(file)
        for factor, amount in steps:
            changed = _changed(scene, factor, amount, number)
            file = folder / f"scene_{number:04d}_{factor}_{amount:g}.png"
            write_picture(draw_with_mask(changed, size, apart=True)[0], file)
            variants[factor, amount].append(file)
            known[factor, amount].append(0.0 if factor == REDRAWN else factor_distances(scene, changed)[factor])
    return FactorPictures(
        tuple(references),
        {step: tuple(files) for step, files in variants.items()},
        {step: float(np.mean(values)) for step, values in known.items()},
    )


def draw_triplet_pictures(
    folder: Path, count: int, size: int, progress: bool = True
) -> tuple[Judgments, dict[Path, Path], dict[Path, str]]:
    """Draw triplets of scenes of the split "test", with one vote each for the candidate that is nearer by its factors.

    Returns the judgments, the file of each picture's mask (white where objects are), and its category, the objects' shape.
    """
    triplets: list[Triplet] = []
    masks: dict[Path, Path] = {}
    categories: dict[Path, str] = {}
    for number, triplet in enumerate(
        tqdm(sample_triplets(count, "test"), desc="drawing triplets", unit="triplet", disable=not progress)
    ):
        files = []
        for name, scene in (("reference", triplet.reference), ("a", triplet.a), ("b", triplet.b)):
            file = folder / f"triplet_{number:04d}_{name}.png"
            image, mask = draw_with_mask(scene, size)
            masks[file] = file.with_name(f"{file.stem}_mask.png")
            write_picture(image, file)
            write_picture(mask, masks[file])
            categories[file] = scene.shape
            files.append(file)
        votes_b = float(triplet.b_is_nearer)
        triplets.append(Triplet(files[0], files[1], files[2], 1 - votes_b, votes_b))
    return gather(triplets, folder), masks, categories


def write_picture(image: Tensor, file: Path) -> None:
    """Write a picture `(1, 1 or 3, h, w)` in [0, 1] as a PNG of 8 bits."""
    pixels: NDArray[np.uint8] = (image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    PILImage.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, compress_level=1)


def _scenes(count: int) -> Sequence[Scene]:
    """Scenes whose shape has fewer than five symmetric rotations, so that an eighth of a turn changes it most."""
    scenes: list[Scene] = []
    number = 0
    while len(scenes) < count:
        scene = sample_scene(scene_generator(number, "test"))
        if 1 <= SYMMETRY[scene.shape] <= 4:
            scenes.append(scene)
        number += 1
    return scenes


def _changed(scene: Scene, factor: str, amount: float, number: int) -> Scene:
    """The scene after one step. The direction of a change depends on the scene and the factor, not on the amount."""
    place = FACTORS.index(factor) if factor in FACTORS else len(FACTORS)
    generator = torch.Generator().manual_seed(1000 * number + place)
    if factor == REDRAWN:
        return vary(scene, (), 1.0, generator)
    return replace(vary(scene, factor, amount, generator), seed=scene.seed)
