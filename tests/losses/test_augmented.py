"""Augmented and MultiCrop: both images get the same view, references are embedded once, and there is no hidden state."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import DreamSim, Loss
from dreamsim_guidance.losses import FULL, L1, MSE, Augmented, Cosine, MultiCrop, augmentation, grid


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 3, 40, 48)


@pytest.fixture
def y() -> Tensor:
    return torch.rand(1, 3, 40, 48)


class Counting(nn.Module):
    """Counts how often the metric embeds a reference."""

    def __init__(self) -> None:
        super().__init__()
        self.references = 0

    def target(self, images: Tensor) -> Loss:
        self.references += 1
        return MSE(images)


def test_image_and_reference_get_the_same_view(metric: DreamSim, y: Tensor) -> None:
    loss = Augmented(metric, y, views=4)
    torch.testing.assert_close(loss(y), torch.zeros(1), atol=1e-6, rtol=0)


def test_views_stay_the_same_when_the_loss_is_cast(metric: DreamSim, y: Tensor) -> None:
    loss = Augmented(metric, y, views=4).double()
    torch.testing.assert_close(loss(y.double()), torch.zeros(1, dtype=torch.float64), atol=1e-6, rtol=0)


def test_drawing_a_view_does_not_reseed_accelerators(
    metric: DreamSim, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, seeds = Augmented(metric, y, views=2), []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    loss(y)
    assert seeds == []


def test_schedules_inside_crops_and_views_follow_the_step(x: Tensor, y: Tensor) -> None:
    fading = Cosine(1.0, 0.0, steps=10) * L1()
    for loss in (MultiCrop(fading, y), Augmented(fading, y, views=2)):
        assert (loss.at(0)(x) > 0).all() and torch.equal(loss.at(10)(x), torch.zeros(2))


def test_the_value_is_the_mean_over_the_views(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    loss = Augmented(metric, y, views=3, size=(32, 32))
    views = [metric(loss.view(x, k), loss.view(y, k)) for k in range(3)]
    torch.testing.assert_close(loss(x), torch.stack(views).mean(0))


def test_the_views_differ_and_are_drawn_at_construction(y: Tensor) -> None:
    loss, other = Augmented(MSE(), y, views=3), Augmented(MSE(), y, views=3, seed=1)
    assert not torch.allclose(loss.view(y, 0), loss.view(y, 1))
    assert not torch.allclose(loss.view(y, 0), other.view(y, 0))
    assert torch.equal(loss.view(y, 0), Augmented(MSE(), y, views=3).view(y, 0))
    assert loss.view(y, 0).shape == y.shape


def test_references_are_embedded_once_per_view(x: Tensor, y: Tensor) -> None:
    metric = Counting()
    loss = Augmented(metric, y, views=5)
    loss(x)
    loss.at(3)(x)
    assert metric.references == 5


def test_the_views_of_an_image_do_not_depend_on_its_batch(x: Tensor, y: Tensor) -> None:
    loss = Augmented(MSE(), y, views=3)
    torch.testing.assert_close(loss(x), torch.cat([loss(x[:1]), loss(x[1:])]))


def test_a_step_draws_its_own_views_and_repeats_them(x: Tensor, y: Tensor) -> None:
    loss = Augmented(MSE(), y, views=6, draw=2)
    values = [loss.at(step)(x) for step in range(8)]
    torch.testing.assert_close(loss.at(5)(x), values[5])
    assert len({round(float(value[0]), 7) for value in values}) > 2
    torch.testing.assert_close(Augmented(MSE(), y, views=6, draw=6).at(0)(x), loss(x))


def test_a_generator_draws_at_every_call(x: Tensor, y: Tensor) -> None:
    def draws() -> list[float]:
        generator = torch.Generator().manual_seed(0)
        loss = Augmented(MSE(), y, views=6, generator=generator)
        return [float(loss(x)[0]) for _ in range(6)]

    first = draws()
    assert first == draws()
    assert len(set(first)) > 2


def test_the_callers_random_numbers_are_left_alone(x: Tensor, y: Tensor) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Augmented(MSE(), y, views=2)(x)
    assert torch.equal(torch.rand(3), expected)


def test_the_gradient_reaches_the_image_through_the_views(metric: DreamSim, y: Tensor) -> None:
    leaf = torch.rand(1, 3, 40, 48, requires_grad=True)
    (gradient,) = torch.autograd.grad(Augmented(metric, y, views=4)(leaf).sum(), leaf)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.9


def test_the_views_of_the_default_augmentation_have_an_exact_gradient() -> None:
    x = (0.3 + 0.4 * torch.rand(1, 3, 12, 12, dtype=torch.float64)).requires_grad_()
    loss = Augmented(MSE(), torch.rand(1, 3, 12, 12, dtype=torch.float64), views=2)
    assert torch.autograd.gradcheck(loss, (x,), fast_mode=True)


def test_it_joins_a_scheduled_sum(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    robust = Augmented(metric, y, views=4)
    loss = Cosine(1.0, 0.0, steps=10) * robust + 0.1 * L1(y)
    torch.testing.assert_close(loss.at(5)(x), 0.5 * robust.at(5)(x) + 0.1 * L1(y)(x))
    assert list(loss.at(5).terms(x)) == ["augmented", "l1"]


def test_an_image_may_be_smaller_than_its_reference(metric: DreamSim, y: Tensor) -> None:
    assert Augmented(metric, y, views=2)(torch.rand(3, 3, 16, 16)).shape == (3,)


def test_a_custom_transform_is_used(x: Tensor, y: Tensor) -> None:
    loss = Augmented(MSE(), y, views=2, transform=nn.AvgPool2d(2))
    pool = nn.AvgPool2d(2)
    torch.testing.assert_close(loss(x), MSE()(pool(x), pool(y)))


def test_one_reference_per_image_is_possible(x: Tensor) -> None:
    torch.testing.assert_close(Augmented(MSE(), x, views=2)(x), torch.zeros(2))


def test_augmented_losses_survive_pickle_and_deepcopy(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    loss = Augmented(metric, y, views=2) + MultiCrop(metric, y)
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        torch.testing.assert_close(twin.at(1)(x), loss.at(1)(x))


def test_the_default_augmentation_treats_a_batch_alike(y: Tensor) -> None:
    batch = augmentation((40, 48))(y.expand(3, -1, -1, -1))
    torch.testing.assert_close(batch[1:], batch[:1].expand(2, -1, -1, -1))


@pytest.mark.usefixtures("unchecked")
def test_impossible_augmentations_are_refused(y: Tensor) -> None:
    with pytest.raises(ValueError, match="draw must lie between 1 and views, got 9 of 8"):
        Augmented(MSE(), y, draw=9)
    with pytest.raises(TypeError, match=r"a metric with .target\(image\), or a pair loss"):
        Augmented(nn.Identity(), y)
    with pytest.raises(ValueError, match=r"use \(x \+ 1\) / 2"):
        Augmented(MSE(), 2 * y - 1)
    with pytest.raises(ValueError, match=r"k must lie in \[0, 2\), got 2"):
        Augmented(MSE(), y, views=2).view(y, 2)


def test_crops_are_compared_with_the_same_part_of_the_reference(metric: DreamSim, x: Tensor, y: Tensor) -> None:
    loss = MultiCrop(metric, y, crops=[FULL, (0.5, 0.25, 1.0, 0.75)], weights=[3.0, 1.0])
    expected = 0.75 * metric(x, y) + 0.25 * metric(x[..., 20:, 12:36], y[..., 20:, 12:36])
    torch.testing.assert_close(loss(x), expected)
    assert list(loss.weights) == ["crops"]
    torch.testing.assert_close(loss(y), torch.zeros(1), atol=1e-6, rtol=0)


def test_crops_are_fractions_so_that_resolutions_may_differ(metric: DreamSim, y: Tensor) -> None:
    assert MultiCrop(metric, y)(torch.rand(2, 3, 200, 100)).shape == (2,)


def test_a_grid_covers_the_picture() -> None:
    assert grid(1) == (FULL,)
    boxes = grid(3, 2, overlap=0.25)
    assert len(boxes) == 6
    covered = torch.zeros(120, 120)
    for top, left, bottom, right in boxes:
        covered[round(top * 120) : round(bottom * 120), round(left * 120) : round(right * 120)] += 1
    assert (covered > 0).all()
    assert covered.max() > 1
    assert grid(2, overlap=0) == (
        (0.0, 0.0, 0.5, 0.5),
        (0.0, 0.5, 0.5, 1.0),
        (0.5, 0.0, 1.0, 0.5),
        (0.5, 0.5, 1.0, 1.0),
    )


@pytest.mark.usefixtures("unchecked")
def test_impossible_crops_are_refused(y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"a crop is \(top, left, bottom, right\)"):
        MultiCrop(MSE(), y, crops=[(0.5, 0.0, 0.2, 1.0)])
    with pytest.raises(ValueError, match="one weight per crop are needed, got 5 and 1"):
        MultiCrop(MSE(), y, weights=[1.0])
    with pytest.raises(ValueError, match="positive sum"):
        MultiCrop(MSE(), y, crops=[FULL], weights=[0.0])
    with pytest.raises(ValueError, match="of 40 x 48 pixels is empty"):
        MultiCrop(MSE(), y, crops=[(0.0, 0.0, 0.001, 1.0)])
    with pytest.raises(ValueError, match=r"overlap in \[0, 1\), got 2, 2 and 1"):
        grid(2, overlap=1)
