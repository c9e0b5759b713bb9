"""Attacks on images: closed forms, the ball, the seed, and what cannot be attacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.evaluation import Attack, pgd
from dreamsim_guidance.evaluation.robustness.pgd import random_start

ATTACKS = [Attack("linf", 4 / 255), Attack("linf", 0.7), Attack("l2", 0.5), Attack("l2", 40.0)]


def linear(weights: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (weights * x).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("attack", "gain"),
    [
        (Attack("linf", 0.03), lambda w: 0.03 * w.abs().sum()),
        (Attack("linf", 0.03, steps=25), lambda w: 0.03 * w.abs().sum()),
        (Attack("l2", 0.4, steps=20, step_size=0.8), lambda w: 0.4 * w.square().sum().sqrt()),
    ],
    ids=lambda value: value.name if isinstance(value, Attack) else "",
)
def test_a_linear_distance_rises_by_the_radius_times_its_dual_norm(
    attack: Attack, gain: Callable[[Tensor], Tensor]
) -> None:
    weights = torch.randn(3, 8, 8, dtype=torch.float64)
    images = 0.3 + 0.4 * torch.rand(2, 3, 8, 8, dtype=torch.float64)  # so far inside [0, 1] that nothing is clipped
    attacked = pgd(linear(weights), images, attack)
    risen = attacked.distance - linear(weights)(images)
    assert torch.allclose(risen, gain(weights).expand(2), rtol=1e-6)
    assert torch.equal(linear(weights)(attacked.images), attacked.distance) and bool(attacked.has_gradient.all())


def test_a_linear_distance_rises_to_the_border_of_the_pictures_range() -> None:
    weights, images = torch.randn(3, 8, 8), torch.rand(2, 3, 8, 8)
    corner = (weights > 0).float().expand(2, -1, -1, -1)
    assert torch.allclose(pgd(linear(weights), images, Attack("linf", 1.0)).images, corner, atol=1e-6)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_no_image_leaves_the_ball_or_the_range(attack: Attack, metric: DreamSim) -> None:
    images = torch.rand(3, 3, 32, 32)
    images[0] = images[0].round()  # black and white, where every step wants to leave the range
    distance = metric.target(torch.rand(1, 3, 32, 32))
    for attacked in (pgd(distance, images, attack).images, random_start(images, attack)):
        change = (attacked - images).flatten(1)
        length = change.abs().amax(1) if attack.norm == "linf" else change.norm(dim=1)
        assert float(length.max()) <= attack.radius * (1 + 1e-5)
        assert float(attacked.min()) >= 0 and float(attacked.max()) <= 1 and float(length.min()) > 0


@pytest.mark.parametrize("attack", [Attack("linf", 4 / 255), Attack("l2", 0.5)], ids=lambda attack: attack.name)
def test_it_beats_random_changes_of_the_same_size(attack: Attack, metric: DreamSim) -> None:
    images = torch.rand(4, 3, 32, 32)
    distance = metric.target(torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        clean = distance(images)
        changes = [random_start(images, attack) - images for _ in range(50)]
        if attack.norm == "linf":  # of all changes in the ball, those in its corners are the largest
            changes = [change.sign() * attack.radius for change in changes]
        else:
            changes = [c * (attack.radius / c.flatten(1).norm(dim=1))[:, None, None, None] for c in changes]
        at_random = torch.stack([distance((images + change).clamp(0, 1)) for change in changes]).amax(0)
    attacked = pgd(distance, images, attack).distance
    assert bool((attacked - clean > 3 * (at_random - clean).clamp(min=0)).all())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_image_is_attacked_alike_in_any_batch_and_order(attack: Attack) -> None:
    reference, images = torch.rand(1, 3, 8, 8), torch.rand(5, 3, 8, 8)

    def distance(x: Tensor) -> Tensor:  # image by image, so that not even rounding depends on the batch
        return torch.stack([(image - reference[0]).square().sin().sum() for image in x])

    whole = pgd(distance, images, attack, seed=3)
    order = torch.tensor([4, 0, 2])
    part = pgd(distance, images[order], attack, seed=3)
    assert torch.equal(part.images, whole.images[order]) and torch.equal(part.distance, whole.distance[order])
    assert torch.equal(pgd(distance, images, attack, seed=3).images, whole.images)
    assert not torch.equal(pgd(distance, images, attack, seed=4).images, whole.images)


def test_equal_images_start_alike_and_different_ones_apart() -> None:
    images = torch.full((3, 3, 8, 8), 0.5)
    images[2, 0, 0, 0] = 0.6

    seen = []

    def distance(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    pgd(distance, images, Attack("linf", 0.1, steps=1))
    a, b, c = seen[1] - images
    assert torch.equal(a, b) and float((a - c).abs().mean()) > 0.02


def test_it_never_ends_below_the_start_and_stops_once_it_is_far_enough() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    calls = []

    def peak(x: Tensor) -> Tensor:  # largest at the image itself
        calls.append(len(x))
        return -(x - 0.5).square().flatten(1).sum(1)

    attacked = pgd(peak, images, Attack("linf", 0.1, steps=6))
    assert torch.equal(attacked.distance, torch.zeros(2)) and torch.equal(attacked.images, images)
    assert len(calls) == 1 + 6 + 1
    calls.clear()
    pgd(peak, images, Attack("linf", 0.1, steps=6), enough=torch.full((2,), -1.0))
    assert len(calls) == 2


def test_gradients_reach_neither_the_metric_nor_the_caller(metric: DreamSim) -> None:
    metric.requires_grad_(True)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    with torch.no_grad():
        attacked = pgd(metric.target(torch.rand(1, 3, 32, 32)), images, Attack())
    assert images.grad is None and all(p.grad is None for p in metric.parameters())
    assert not attacked.images.requires_grad and not attacked.distance.requires_grad


@pytest.mark.parametrize(
    ("distance", "message"),
    [
        (lambda x: torch.zeros(len(x)), "this distance has none"),
        (lambda x: x.detach().flatten(1).sum(1), "this distance has none"),
        (lambda x: torch.zeros(len(x), requires_grad=True), "this distance has none"),
        (lambda x: x.mean(), "one number per image"),
        (lambda x: (x.flatten(1).sum(1) - x.detach().flatten(1).sum(1)).sqrt(), "is not finite"),
    ],
)
def test_a_distance_that_cannot_be_attacked_is_refused(
    distance: Callable[[Tensor], Tensor], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        pgd(distance, torch.rand(2, 3, 4, 4), Attack())


@pytest.mark.parametrize(
    ("text", "norm", "radius", "name"),
    [
        ("linf:4/255", "linf", 4 / 255, "linf:4/255"),
        ("linf:0.1", "linf", 0.1, "linf:0.1"),
        ("linf:1", "linf", 1.0, "linf:255/255"),
        ("l2:1.50", "l2", 1.5, "l2:1.5"),
        (" l2:.5 ", "l2", 0.5, "l2:0.5"),
        ("l2:1e-2", "l2", 0.01, "l2:0.01"),
    ],
)
def test_an_attack_is_read_and_named(text: str, norm: str, radius: float, name: str) -> None:
    attack = Attack.parse(text, steps=7)
    assert (attack.norm, attack.radius, attack.name, attack.steps) == (norm, radius, name, 7)
    assert Attack.parse(attack.name, steps=7) == attack


@pytest.mark.parametrize(
    "text", ["linf", "linf:", "4/255", "l1:0.1", "linf:-0.1", "linf:4/255/2", "l2:a", "linf 4/255", ""]
)
def test_another_form_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"written NORM:RADIUS with the norm linf or l2, as linf:4/255"):
        Attack.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attack.parse("linf:4/0"), "divides by 0"),
        (lambda: Attack.parse("linf:4"), "at most 1 for linf, got 4"),
        (lambda: Attack.parse("l2:0"), "positive number"),
        (lambda: Attack("linf", float("nan")), "positive number"),
        (lambda: Attack("l2", float("inf")), "positive number"),
        (lambda: Attack("max", 0.1), "unknown norm 'max'; known: linf, l2"),
        (lambda: Attack(steps=0), "at least 1 step, got 0"),
        (lambda: Attack(step_size=0.0), "step size of an attack is a positive number"),
    ],
)
def test_impossible_attacks_are_refused(make: Callable[[], Attack], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("radius", [4 / 255, 0.5, 1.5, 2.0, 1e-7, 1e9])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_name_of_an_attack_is_read_back(norm: Any, radius: float) -> None:
    attack = Attack(norm, min(radius, 1.0) if norm == "linf" else radius)
    again = Attack.parse(attack.name)
    assert again.norm == norm and again.radius == pytest.approx(attack.radius, rel=1e-5)
    assert Attack.parse("l2:1.") == Attack("l2", 1.0)


@pytest.mark.parametrize("steps", [0, 1.5, True])
def test_steps_of_an_attack_are_a_whole_number(steps: Any, unchecked: None) -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        Attack(steps=steps)
