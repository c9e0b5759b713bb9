"""Class-conditional generators: the class is found by the search, moves with the descent, or stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dreamsim_guidance import invert
from dreamsim_guidance.inversion import ClassConditional

CLASSES, Z = 6, 5


class Network(nn.Module):
    """Each class has its own picture, and z varies it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.pictures = nn.Parameter(torch.randn(width, 3 * 12 * 12, generator=generator))
        self.variations = nn.Parameter(0.3 * torch.randn(Z, 3 * 12 * 12, generator=generator))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return (y @ self.pictures + z @ self.variations).tanh().view(-1, 3, 12, 12)


NETWORK = Network(CLASSES)


def own(network: Network, y: Tensor) -> tuple[Tensor, Tensor]:
    """A code, and its picture of this class in [0, 1]."""
    z = torch.randn(1, Z, generator=torch.Generator().manual_seed(3)).clamp(-1.5, 1.5)
    return z, ((network(z, y) + 1) / 2).detach()


def distance_to(target: Tensor) -> object:
    return lambda x: (x - target).square().flatten(1).mean(1)


def test_the_search_finds_the_class_and_the_descent_the_code() -> None:
    z, target = own(NETWORK, torch.eye(CLASSES)[[4]])
    generator = ClassConditional(NETWORK, Z, CLASSES)
    result = invert(distance_to(target), generator, steps=300, progress=False)
    assert result.leaves["y"].argmax(1).item() == 4 and result.loss.item() < 1e-8
    assert torch.allclose(result.leaves["z"], z, atol=1e-2)
    assert all(parameter.grad is None for parameter in NETWORK.parameters())


def test_a_fixed_class_stays_and_a_wrong_one_fits_less() -> None:
    _, target = own(NETWORK, torch.eye(CLASSES)[[4]])
    losses = []
    for c in (4, 1):
        generator = ClassConditional(NETWORK, Z, CLASSES, c, optimise_class=False)
        result = invert(distance_to(target), generator, steps=150, search=16, progress=False)
        assert set(result.leaves) == {"z"}
        losses.append(result.loss.item())
    assert losses[0] < 1e-5 < 1e-2 < losses[1]


def test_embeddings_are_leaves_in_units_of_their_deviation_between_classes() -> None:
    table = 10 * torch.randn(CLASSES, 4, generator=torch.Generator().manual_seed(1))
    network = Network(4)
    network.pictures.data /= 10
    between = table[[2]] + 0.2 * (table[[3]] - table[[2]])
    _, target = own(network, between)
    generator = ClassConditional(network, Z, table, (2, 3))
    assert torch.allclose(generator.scale["y"], table.std(0))
    result = invert(distance_to(target), generator, steps=300, progress=False)
    assert result.loss.item() < 1e-7
    assert torch.allclose(result.leaves["y"], between, atol=0.3)


def test_codes_are_drawn_and_kept_within_the_truncation() -> None:
    generator = ClassConditional(NETWORK, Z, CLASSES, truncation=0.7)
    z = generator.init(2000, torch.Generator().manual_seed(0))["z"]
    assert z.abs().max() <= 0.7 and 0.36 < z.std() < 0.40  # the deviation of a normal distribution cut at 0.7 is 0.38
    result = invert(lambda x: x.flatten(1).mean(1), generator, steps=40, search=8, progress=False)
    assert result.leaves["z"].abs().max() <= 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": 6}, "classes from 0 to 5"),
        ({"c": (1, 2), "optimise_class": False}, "must be one class"),
        ({"truncation": 0.0}, "truncation must be a positive number"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassConditional(NETWORK, Z, CLASSES, **options)
