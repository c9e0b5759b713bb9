from dataclasses import replace

import pytest
import torch

from dreamsim_guidance.data.scenes.drawing import draw, picture_grid
from dreamsim_guidance.data.scenes.scene import (
    FACTORS,
    SHAPES,
    SPLITS,
    STYLES,
    Scene,
    factor_distance,
    factor_distances,
    sample_scene,
    scene_generator,
)
from dreamsim_guidance.data.scenes.variations import random_variation, simplify, vary

PLAIN = Scene(
    shape="arrow",
    colour=(0.0, 0.9, 0.9),
    count=2,
    layout="grid",
    rotation=0.06,
    scale=1.0,
    perspective=(0.0, 0.0),
    background="plain",
    background_colour=(0.6, 0.3, 0.9),
    texture="plain",
    style="flat",
    seed=7,
)


def scenes(count: int, split: str = "val") -> list[Scene]:
    return [sample_scene(scene_generator(i, split)) for i in range(count)]


def test_the_same_number_gives_the_same_scene_and_picture():
    for first, second in zip(scenes(5), scenes(5), strict=True):
        assert first == second
        assert torch.equal(draw(first), draw(second))


def test_splits_share_no_scene():
    seen = [scene for split in SPLITS for scene in scenes(50, split)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("size", [16, 64, 100])
def test_every_style_and_shape_draws_an_image_in_range(size):
    for i in range(max(len(SHAPES), len(STYLES))):
        scene = replace(PLAIN, shape=SHAPES[i % len(SHAPES)], style=STYLES[i % len(STYLES)])
        picture = draw(scene, size)
        assert picture.shape == (1, 3, size, size) and picture.dtype == torch.float32
        assert picture.min() >= 0 and picture.max() <= 1
        assert picture.std() > 0.01


def test_a_larger_picture_shows_the_same_scene():
    small, large = draw(PLAIN, 64), draw(PLAIN, 256)
    shrunk = torch.nn.functional.interpolate(large, size=(64, 64), mode="area")
    assert (shrunk - small).abs().mean() < 0.02


@pytest.mark.parametrize("factor", FACTORS)
def test_varying_a_factor_changes_that_factor_and_the_picture(factor):
    changed = replace(vary(PLAIN, factor, 0.6, scene_generator(1)), seed=PLAIN.seed)
    distances = factor_distances(PLAIN, changed)
    assert distances[factor] > 0.05
    # another shape has no angle in common, so its rotation counts half
    assert all(value == 0 for name, value in distances.items() if name not in (factor, "rotation"))
    assert (draw(PLAIN) - draw(changed)).abs().max() > 0.1


def test_the_seed_moves_the_camera_and_keeps_the_factors():
    pictures = torch.cat([draw(replace(PLAIN, seed=seed)) for seed in range(8)])
    spread = (pictures - pictures.mean(0)).abs().mean((1, 2, 3))
    assert spread.min() > 0.01
    assert (pictures.mean((2, 3)) - pictures.mean((0, 2, 3))).abs().max() < 0.15  # the colours stay


def test_varying_nothing_redraws_the_scene_at_distance_zero():
    again = vary(PLAIN, (), 0.5, scene_generator(1))
    assert again.seed != PLAIN.seed
    assert factor_distance(PLAIN, again) == 0


@pytest.mark.parametrize("factor", ["colour", "count", "rotation", "scale", "perspective", "background"])
def test_distance_grows_with_the_amount(factor):
    scene = replace(PLAIN, scale=0.7, count=1)
    steps = [factor_distance(scene, vary(scene, factor, amount, scene_generator(2))) for amount in (0.1, 0.4, 0.9)]
    assert 0 < steps[0] < steps[1] < steps[2]


def test_distance_is_a_metric_in_the_unit_interval():
    sample = scenes(12)
    for a in sample:
        assert factor_distance(a, a) == 0
        for b in sample:
            assert 0 <= factor_distance(a, b) <= 1
            assert factor_distance(a, b) == pytest.approx(factor_distance(b, a))
            for c in sample[:6]:
                assert factor_distance(a, b) <= factor_distance(a, c) + factor_distance(c, b) + 1e-12


def test_rotating_a_shape_by_its_symmetry_changes_nothing():
    square = replace(PLAIN, shape="square", rotation=-0.125)
    assert factor_distance(square, replace(square, rotation=0.125)) == pytest.approx(0, abs=1e-12)
    assert factor_distance(square, replace(square, rotation=0.0)) > 0
    circle = replace(PLAIN, shape="circle")
    assert factor_distance(circle, replace(circle, rotation=0.7)) == 0


def test_simplified_scenes_go_from_one_plain_object_to_the_full_scene():
    for scene in scenes(20):
        easy, full = simplify(scene, 0.0, scene_generator(0)), simplify(scene, 1.0, scene_generator(0))
        assert full == scene
        assert (easy.count, easy.rotation, easy.scale, easy.perspective) == (1, 0, 1.1, (0, 0))
        assert (easy.layout, easy.background, easy.texture, easy.style) == ("grid", "plain", "plain", "flat")
        assert (easy.shape, easy.colour) == (scene.shape, scene.colour)


def test_random_variations_change_few_factors():
    generator = scene_generator(3)
    for scene in scenes(30):
        changed = random_variation(scene, generator, most=2)
        moved = {name for name, value in factor_distances(scene, changed).items() if value > 0}
        if scene.shape != changed.shape:
            moved.discard("rotation")
        assert len(moved) <= 2


def test_a_contact_sheet_shows_pictures_row_by_row():
    pictures = torch.stack([torch.full((3, 4, 4), i / 10) for i in range(5)])
    sheet = picture_grid(pictures, columns=3, gap=1)
    assert sheet.shape == (1, 3, 11, 16)
    assert sheet[0, 0, 2, 2] == 0 and sheet[0, 0, 7, 7] == pytest.approx(0.4) and sheet[0, 0, 0, 0] == 1
    assert torch.equal(sheet, picture_grid(list(pictures.split(1)), columns=3, gap=1))


def test_wrong_names_and_amounts_are_explained():
    with pytest.raises(ValueError, match="unknown shape 'dog'; known: circle"):
        replace(PLAIN, shape="dog")
    with pytest.raises(ValueError, match="unknown factor 'hue'; known: shape, colour"):
        vary(PLAIN, "hue", 0.5, scene_generator(0))
    with pytest.raises(ValueError, match=r"amount must lie in \(0, 1\], got 0"):
        vary(PLAIN, "colour", 0.0, scene_generator(0))
    with pytest.raises(ValueError, match="unknown split 'dev'; known: train, val, test"):
        scene_generator(0, "dev")
