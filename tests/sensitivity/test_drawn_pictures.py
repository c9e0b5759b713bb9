"""Drawn pictures: one factor changes and nothing else does, and masks are where the objects are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from dreamsim_guidance.data.scenes.drawing import draw, draw_with_mask
from dreamsim_guidance.data.scenes.scene import FACTORS, SYMMETRY, Scene, sample_scene, scene_generator
from dreamsim_guidance.sensitivity.drawn_pictures import draw_factor_pictures, draw_triplet_pictures
from dreamsim_guidance.sensitivity.robustness import distort_pictures


def flat(number: int) -> Scene:
    scene = sample_scene(scene_generator(number, "test"))
    return replace(scene, style="flat", background="clouds", texture="plain", count=3)


@pytest.mark.parametrize(
    "change", [{"count": 6}, {"layout": "scattered"}, {"shape": "moon"}, {"scale": 0.7}, {"texture": "dots"}]
)
def test_a_change_of_the_objects_leaves_the_background(change: dict[str, object]) -> None:
    for number in range(4):
        scene = flat(number)
        other = replace(scene, **change)  # type: ignore[arg-type]
        (x, mask), (y, other_mask) = (draw_with_mask(s, 64, apart=True) for s in (scene, other))
        outside = ((mask == 0) & (other_mask == 0)).expand_as(x)
        assert outside.any() and torch.equal(x[outside], y[outside])


def test_from_one_stream_a_further_object_moves_the_background() -> None:
    scene = replace(flat(0), layout="row")
    (x, mask), (y, other_mask) = (draw_with_mask(s, 64) for s in (scene, replace(scene, count=6)))
    outside = ((mask == 0) & (other_mask == 0)).expand_as(x)
    assert not torch.equal(x[outside], y[outside])


def test_a_change_of_the_background_leaves_the_objects() -> None:
    scene = flat(1)
    (x, mask), (y, _) = (draw_with_mask(s, 64, apart=True) for s in (scene, replace(scene, background="checks")))
    inside = (mask == 1).expand_as(x)
    assert inside.any()
    torch.testing.assert_close(x[inside], y[inside], atol=1e-5, rtol=0)


def test_pictures_with_masks_are_those_of_draw() -> None:
    for number in range(6):
        scene = sample_scene(scene_generator(number, "test"))
        assert torch.equal(draw(scene, 48), draw_with_mask(scene, 48)[0])


def test_every_factor_has_steps_and_rotations_are_visible(tmp_path: Path) -> None:
    pictures = draw_factor_pictures(tmp_path, 6, 64, progress=False)
    assert {factor for factor, _ in pictures.variants} == {*FACTORS, "redrawn"}
    assert pictures.known["redrawn", 1.0] == 0
    for (factor, _), files in pictures.variants.items():
        known = pictures.known[factor, 1.0]
        assert len(files) == 6 and (known > 0 or factor == "redrawn")
        changed = [not np.array_equal(read(a), read(b)) for a, b in zip(pictures.references, files, strict=True)]
        assert np.mean(changed) > 0.8
    rotation = [pictures.known["rotation", amount] for amount in (0.25, 0.5, 1.0)]
    assert rotation == sorted(rotation) and 0 not in rotation
    assert any(1 <= folds <= 4 for folds in SYMMETRY.values())


def test_triplets_have_masks_and_categories(tmp_path: Path) -> None:
    judgments, masks, categories = draw_triplet_pictures(tmp_path, 10, 64, progress=False)
    assert len(judgments) == 10 and set(masks) == set(categories) == set(judgments.images)
    shares = [(read(masks[file]) > 127).mean() for file in judgments.images]
    assert 0.02 < float(np.mean(shares)) < 0.7


def test_distorted_windows_show_no_border(tmp_path: Path) -> None:
    """A bright picture stays bright to its corners under every move of the window."""
    source = tmp_path / "white.png"
    PILImage.new("RGB", (400, 300), "white").save(source)
    sources = [source] * 4
    pictures = distort_pictures(sources, tmp_path, 64, progress=False)
    for (kind, strength), files in pictures.variants.items():
        if kind in ("shift", "shift, wrapped", "rotation", "scale", "blur"):
            assert all(read(file).min() >= 254 for file in files), (kind, strength)


def read(file: Path) -> np.ndarray:
    return np.asarray(PILImage.open(file))
