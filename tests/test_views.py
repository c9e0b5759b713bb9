"""Cutting and augmenting: the numbers come from the generator that is passed, and nothing global changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dreamsim_guidance
from dreamsim_guidance.guidance.views import cutouts
from dreamsim_guidance.losses import MSE, Augmented, augmentation
from dreamsim_guidance.training.augmentation import Augmentation
from dreamsim_guidance.views import (
    FULL,
    RandomChanges,
    RandomShift,
    chosen_views,
    cut,
    grid,
    numbered_generator,
    random_crop,
    random_squares,
    random_view,
    recolour,
)

PACKAGE = Path(dreamsim_guidance.__file__).parent

EVERYTHING = RandomChanges(crop=(0.5, 0.9), flip=0.5, degrees=20.0, colour=(0.2, 0.2, 0.2, 0.1), blur=0.5, noise=0.05)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 40)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SAMPLERS: dict[str, Callable[[Tensor, torch.Generator], Any]] = {
    "everything": lambda x, g: random_view(EVERYTHING.chain((32, 40)), x, g),
    "losses": lambda x, g: random_view(augmentation((32, 40)), x, g),
    "guidance": lambda x, g: random_view(cutouts((32, 40)), x, g),
    "training": lambda x, g: Augmentation(degrees=10.0, brightness=0.2, blur=0.5)(x[..., :32], g),
    "own transform": lambda x, g: random_view(lambda y: y + torch.rand_like(y), x, g),
    "random_crop": lambda x, g: random_crop(x[:1], 16, g),
    "random_squares": lambda x, g: random_squares(x, 16, (0.3, 0.8), g),
    "recolour": recolour,
}
samplers = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS.keys())


def test_views_are_augmented_in_one_place() -> None:
    roots = (PACKAGE, *(PACKAGE.parent / name for name in ("losses", "recipes", "training")))
    files = {file.resolve() for root in roots for file in root.rglob("*.py")}
    pattern = re.compile(r"kornia\.augmentation|grid_sample|default_generator\.(set_state|manual_seed)")
    augmenting = {file.name for file in files if pattern.search(file.read_text(encoding="utf-8"))}
    assert augmenting == {"views.py"}


@samplers
def test_a_generator_decides_the_view_and_moves_on(
    sample: Callable[[Tensor, torch.Generator], Tensor], images: Tensor
) -> None:
    generator = seeded(3)
    first, second = sample(images, generator), sample(images, generator)
    assert torch.equal(first, sample(images, seeded(3)))
    assert not torch.equal(first, second)


@samplers
def test_global_random_numbers_stay_as_they_are(
    sample: Callable[[Tensor, torch.Generator], Tensor], images: Tensor
) -> None:
    before = torch.get_rng_state()
    sample(images, seeded())
    assert torch.equal(torch.get_rng_state(), before)


@samplers
def test_views_have_the_dtype_of_the_images(
    sample: Callable[[Tensor, torch.Generator], Tensor], images: Tensor
) -> None:
    """Whatever the default dtype is; kornia draws other numbers in float64, so the views themselves may differ."""
    torch.set_default_dtype(torch.float64)
    try:
        view = sample(images, seeded())
        assert view.dtype == images.dtype == torch.float32 and view.isfinite().all()
    finally:
        torch.set_default_dtype(torch.float32)


def test_global_random_numbers_stay_as_they_are_when_a_transform_fails(images: Tensor) -> None:
    def failing(_: Tensor) -> Tensor:
        torch.rand(3)
        raise RuntimeError("no view")

    before, generator = torch.get_rng_state(), seeded()
    with pytest.raises(RuntimeError, match="no view"):
        random_view(failing, images, generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_generator_itself_moves_on(images: Tensor) -> None:
    torch.manual_seed(5)
    expected = images + torch.rand_like(images)
    after = torch.rand(2)
    torch.manual_seed(5)
    view = random_view(lambda x: x + torch.rand_like(x), images, torch.default_generator)
    assert torch.equal(view, expected) and torch.equal(torch.rand(2), after)


def test_images_have_views_of_their_own_or_are_changed_alike(images: Tensor) -> None:
    same = images[:1].expand(3, -1, -1, -1)
    alike = RandomChanges(crop=(0.5, 0.9), colour=(0.2, 0.2, 0.2, 0.1), alike=True).chain((32, 40))
    view = random_view(alike, same, seeded())
    torch.testing.assert_close(view[1:], view[:1].expand(2, -1, -1, -1))
    view = random_view(EVERYTHING.chain((32, 40)), same, seeded())
    assert not torch.allclose(view[0], view[1], atol=0.01) and not torch.allclose(view[1], view[2], atol=0.01)


def test_nothing_to_change_is_the_image(images: Tensor) -> None:
    assert torch.equal(random_view(RandomChanges().chain((32, 40)), images, seeded()), images)


def test_augmented_views_are_those_of_their_seed_and_number(images: Tensor) -> None:
    loss = Augmented(MSE(), images, views=3, seed=2)
    expected = random_view(augmentation((32, 40)), images, numbered_generator(2, 1))
    torch.testing.assert_close(loss.view(images, 1), expected)


def test_chosen_views_are_different_numbers_drawn_from_the_generator() -> None:
    generator = seeded(1)
    assert len(set(chosen_views(9, 4, generator))) == 4
    assert chosen_views(9, 4, generator) != chosen_views(9, 4, seeded(1))
    assert sorted(chosen_views(3, 8, generator)) == [0, 1, 2] and chosen_views(0, 3, generator) == ()


def test_a_cut_is_the_part_inside_the_box(images: Tensor) -> None:
    assert torch.equal(cut(images, FULL), images)
    assert torch.equal(cut(images, (0.5, 0.25, 1.0, 0.75)), images[..., 16:, 10:30])
    for box in grid(3, 2):
        assert cut(images, box).shape[0] == 3 and cut(images, box).numel() > 0


def test_a_box_without_a_pixel_is_refused_or_widened() -> None:
    small = torch.rand(1, 3, 4, 3)
    for box in grid(16):
        part = cut(small, box, widen=True)
        assert part.shape[-2] >= 1 and part.shape[-1] >= 1
    with pytest.raises(ValueError, match="of an image of 4 x 3 pixels is empty; use larger images or crops"):
        cut(small, (0.0, 0.0, 0.01, 1.0))
    with pytest.raises(ValueError, match=r"0 <= top < bottom <= 1 and so on, got \(0.5, 0.0, 0.2, 1.0\)"):
        cut(small, (0.5, 0.0, 0.2, 1.0), widen=True)


def test_a_view_lets_the_gradient_through(images: Tensor) -> None:
    leaf = images.requires_grad_()
    (gradient,) = torch.autograd.grad(random_view(EVERYTHING.chain((32, 40)), leaf, seeded()).sum(), leaf)
    assert gradient.isfinite().all() and (gradient != 0).any(1).flatten(1).float().mean() > 0.2


def test_a_shift_moves_whole_pixels_and_mirrors_the_edge() -> None:
    images = torch.rand(2, 3, 9, 11)
    seen = set()
    for seed in range(40):
        moved = random_view(RandomShift(2), images, torch.Generator().manual_seed(seed))
        offsets = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(moved[..., 2:-2, 2:-2], images[..., 2 + dy : 7 + dy, 2 + dx : 9 + dx])
        ]
        assert moved.shape == images.shape and len(offsets) == 1
        seen.add(offsets[0])
    assert len(seen) > 10
