"""Pivotal tuning: the same loop over a generator's weights, with a term that keeps other images as they were."""

import copy

import pytest
import torch
from inversion.styled_networks import Styled
from torch import Tensor, nn

from dreamsim_guidance import StyleGAN, Weights, invert
from dreamsim_guidance.losses import MSE

OPTIONS = {"search": 16, "lr": 0.1, "progress": False}


def targets(count: int) -> Tensor:
    """Images of another network, which no code of the tuned one gives."""
    G = Styled(seed=7, levels=3)
    with torch.no_grad():
        return (G(torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(1))) + 1) / 2


def pivot(G: nn.Module, target: Tensor, **options: object) -> tuple[StyleGAN, dict[str, Tensor], Tensor]:
    generator = StyleGAN(G, samples=200, **options)  # type: ignore[arg-type]
    result = invert(MSE(target), through=generator, steps=40, batch=len(target), **OPTIONS)  # type: ignore[arg-type]
    return generator, result.leaves, result.loss


def change_elsewhere(before: nn.Module, after: StyleGAN) -> float:
    """Mean squared change of the images of new codes."""
    z = torch.randn(64, before.z_dim, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float((before(z) - after.G(z)).square().mean())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("noise", [False, True])
def test_tuning_lowers_the_loss_below_the_pivots_and_leaves_the_network_alone(count: int, noise: bool) -> None:
    G, target = Styled(levels=3), targets(count)
    generator, leaves, loss = pivot(G, target, noise=noise, regularise=0.0)
    before = copy.deepcopy(G.state_dict())
    through = Weights(generator, leaves)
    assert torch.equal(through(**through.init), generator(**leaves))
    result = invert(MSE(target), through=through, steps=40, lr=3e-3, progress=False)
    assert (result.loss < loss).all() and result.loss.sum() < 0.5 * loss.sum()
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert all(p.grad is None for p in G.parameters())
    # mapping networks and pivots are no leaves; every convolution is one
    assert {name.partition(".")[2].partition(".")[0] for name in result.leaves} == {"synthesis"}
    assert {name for name, _ in generator.named_parameters() if "synthesis" in name} == set(result.leaves)
    with torch.no_grad():
        images = (through.tuned(result.leaves)(**leaves) + 1) / 2  # the network's images lie in (-1, 1)
    torch.testing.assert_close(images, result.images)
    through.apply(result.leaves)
    torch.testing.assert_close((generator(**leaves) + 1) / 2, result.images)
    assert not torch.equal(G.synthesis.b0.weight, before["synthesis.b0.weight"])


def test_locality_keeps_other_images_as_they_were() -> None:
    G, target = Styled(levels=3), targets(2)
    generator, leaves, loss = pivot(G, target)
    changes, losses = [], []
    for regularise in (0.0, 3.0):
        through = Weights(generator, leaves, regularise)
        result = invert(MSE(target), through=through, steps=60, lr=3e-3, progress=False)
        tuned = through.tuned(result.leaves)
        assert isinstance(tuned, StyleGAN)
        changes.append(change_elsewhere(G, tuned))
        losses.append(float(result.history["mse"][-1].sum()))
    assert changes[1] < 0.3 * changes[0]
    assert losses[1] < float(loss.sum())


def test_locality_compares_new_samples_of_the_prior_drawn_with_the_pivots_noise() -> None:
    G = Styled()
    generator, leaves, _ = pivot(G, torch.rand(2, 3, 16, 16), noise=True, regularise=0.0)
    penalty = Weights(generator, leaves, regularise=1.0).penalty
    assert penalty is not None
    first, second = (penalty.samples(torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert isinstance(first, dict) and isinstance(second, dict)
    assert not torch.equal(first["w"], second["w"])
    assert all(torch.equal(first[name], leaves[name]) for name in generator.noises)
    assert float(penalty.at(3)(**Weights(generator, leaves).init).abs().max()) == 0
    changed = {name: 1.1 * weight for name, weight in Weights(generator, leaves).init.items()}
    assert torch.equal(penalty.at(3)(**changed), penalty.at(3)(**changed))
    assert not torch.equal(penalty.at(3)(**changed), penalty.at(4)(**changed))
    # a single pivot is not always compared at the mean of w, which StyleGAN draws first
    alone = {name: leaf[:1] for name, leaf in leaves.items()}
    single = Weights(generator, alone, regularise=1.0).penalty
    assert single is not None
    drawn = [single.samples(torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    directions = [torch.nn.functional.normalize(d["w"] - alone["w"], dim=1) for d in drawn]  # type: ignore[call-overload]
    assert float((directions[0] * directions[1]).sum()) < 0.99


def test_labels_of_each_sample_stay_with_it() -> None:
    G = Styled(c_dim=3)
    generator = StyleGAN(G, "z", c=[2, 0])
    leaves = generator.init(1, torch.Generator().manual_seed(0))
    through = Weights(generator, leaves, regularise=1.0)
    result = invert(MSE(torch.rand(2, 3, 16, 16)), through=through, steps=3, progress=False)
    assert len(result.images) == 2
    assert any("mapping" in name for name in result.leaves)


def test_a_compared_metric_is_used() -> None:
    G = Styled()
    generator, leaves, _ = pivot(G, torch.rand(1, 3, 16, 16))
    through = Weights(generator, leaves, 2.0, compare=lambda x, y: (x - y).abs().mean((1, 2, 3)) + 1)
    result = invert(MSE(torch.rand(1, 3, 16, 16)), through=through, steps=0, progress=False)
    assert result.history["penalty"].item() == 2.0


class Matrix(nn.Module):
    """A generator of one leaf, which as many samples as its weights have rows share."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 48), 0.1))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight).sigmoid().view(-1, 3, 4, 4)


def test_weights_with_a_row_for_each_sample_are_shared_all_the_same() -> None:
    G, codes = Matrix(), torch.eye(2) + 0.5
    result = invert(MSE(torch.rand(2, 3, 4, 4)), through=Weights(G, codes), steps=30, lr=0.1, progress=False)
    torch.testing.assert_close(torch.func.functional_call(G, result.leaves, (codes,)), result.images)
    with pytest.raises(ValueError, match="Matrix draws no samples, which regularise needs; use regularise=0"):
        Weights(G, codes, regularise=1.0)
    with pytest.raises(ValueError, match="Matrix has no parameter 'bias'"):
        Weights(G, codes).apply({"bias": torch.zeros(1)})


def test_a_generator_without_weights_is_refused() -> None:
    class Fixed(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.sigmoid()

    with pytest.raises(ValueError, match="the images of Fixed depend on none of its parameters"):
        Weights(Fixed(), torch.zeros(1, 3, 4, 4))
