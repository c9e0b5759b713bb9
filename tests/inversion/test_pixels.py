"""`Pixels`: an image as a pyramid of levels, always inside the range of images."""

import pytest
import torch

from dreamsim_guidance.inversion import Pixels, invert
from dreamsim_guidance.losses import MSE


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pixels_are_images_strictly_inside_the_range() -> None:
    image = Pixels(24, 36, batch=2, noise=1.0)()
    assert image.shape == (2, 3, 24, 36)
    assert 0 < image.min() < 0.2 and 0.8 < image.max() < 1


def test_the_pyramid_doubles_from_the_coarsest_level_to_the_image() -> None:
    assert [tuple(level.shape[-2:]) for level in Pixels(64).levels] == [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
    assert [tuple(level.shape[-2:]) for level in Pixels(20, 40).levels] == [(4, 8), (8, 16), (16, 32), (20, 40)]


def test_one_level_is_plain_pixels() -> None:
    assert len(Pixels(30, 50, coarsest=30).levels) == 1
    assert len(Pixels(3).levels) == 1


def test_every_level_receives_a_gradient() -> None:
    pixels = Pixels(32)
    pixels().square().sum().backward()
    assert all(level.grad is not None and level.grad.abs().min() > 0 for level in pixels.levels)


def test_the_start_depends_on_the_generator_alone() -> None:
    a, b = Pixels(16, generator=seeded(1)), Pixels(16, generator=seeded(1))
    assert torch.equal(a(), b())
    assert not torch.equal(a(), Pixels(16, generator=seeded(2))())


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got"):
        Pixels(0)


@pytest.mark.parametrize("kind", ["pyramid", "plain", "fourier"])
def test_every_kind_starts_as_grey_noise_and_reaches_a_picture(kind: str) -> None:
    pixels = Pixels(16, 24, batch=2, generator=seeded(0), kind=kind)  # type: ignore[arg-type]
    start = pixels().detach()
    assert start.shape == (2, 3, 16, 24) and 0.01 < start.std() < 0.2 and abs(start.mean() - 0.5) < 0.15
    y, x = torch.meshgrid(torch.linspace(0, 3, 16), torch.linspace(0, 4, 24), indexing="ij")
    picture = torch.stack([0.5 + 0.3 * f for f in (x.sin(), y.cos(), (x + y).sin())])[None]
    result = invert(MSE(picture), pixels, steps=200, progress=False)
    assert (result.images - picture).abs().mean() < 0.02
    assert torch.equal(pixels().detach(), start) and torch.equal(pixels(**result.leaves), result.images)


def test_plain_pixels_are_one_parameter_each_and_the_wave_of_odd_sizes_is_whole() -> None:
    assert [tuple(level.shape) for level in Pixels(5, 7, kind="plain").levels] == [(1, 3, 5, 7)]
    assert Pixels(5, 7, kind="fourier")().shape == (1, 3, 5, 7)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of pixels 'wavelet'; known: pyramid, plain, fourier"):
        Pixels(16, kind="wavelet")  # type: ignore[arg-type]
