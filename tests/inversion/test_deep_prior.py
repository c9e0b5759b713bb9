"""`DeepImagePrior`: a network for each sample, which fits a photograph before it fits noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dreamsim_guidance import invert
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.inversion import DeepImagePrior
from dreamsim_guidance.losses import MSE
from dreamsim_guidance.preprocess import resize

SMALL = (8, 16)


def cat(size: int = 32) -> Tensor:
    return resize(photograph("chelsea")[..., :300, 75:375], (size, size)).clamp(0, 1)


def test_every_sample_has_a_network_of_its_own() -> None:
    prior = DeepImagePrior(13, 18, batch=3, channels=SMALL)
    assert all(len(leaf) == 3 for leaf in prior.init.values())
    images = prior(**prior.init)
    assert images.shape == (3, 3, 13, 18) and images.min() > 0 and images.max() < 1
    assert torch.allclose(images[0], images[2], atol=1e-6)  # all start alike
    changed = {name: leaf.clone() for name, leaf in prior.init.items()}
    changed["down.0.0.1.weight"][1] += 1
    difference = (prior(**changed) - images).abs().amax((1, 2, 3))
    assert difference[1] > 1e-3 and difference[[0, 2]].max() < 1e-6


def test_a_batch_gives_what_single_runs_give() -> None:
    targets = torch.cat([cat(16), torch.rand(1, 3, 16, 16)])
    together = invert(MSE(targets), DeepImagePrior(16, batch=2, channels=SMALL), steps=15, progress=False)
    for i in range(2):
        alone = invert(MSE(targets[i : i + 1]), DeepImagePrior(16, channels=SMALL), steps=15, progress=False)
        # Adam's steps do not shrink with the gradient, so that rounding grows: 2.3e-3 on an Intel Xeon
        torch.testing.assert_close(together.images[i : i + 1], alone.images, atol=5e-3, rtol=0)
        torch.testing.assert_close(together.loss[i : i + 1], alone.loss, atol=0, rtol=0.02)


def test_a_photograph_is_fitted_before_noise() -> None:
    """The share of the variance that is left after as many steps, for a photograph and for the same pixels shuffled."""
    photo = cat()
    order = torch.randperm(32 * 32)
    shuffled = photo.flatten(2)[..., order].view_as(photo)
    targets = torch.cat([photo, shuffled])
    result = invert(MSE(targets), DeepImagePrior(32, batch=2, channels=SMALL), steps=60, progress=False)
    left = result.loss / targets.var((2, 3)).mean(1)
    assert left[0] < 0.35 and left[1] > 0.6


def test_weights_depend_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = DeepImagePrior(8, channels=SMALL)
    torch.manual_seed(2)
    second = DeepImagePrior(8, channels=SMALL)
    other = DeepImagePrior(8, channels=SMALL, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first(**first.init), second(**second.init))
    assert not torch.allclose(first(**first.init), other(**other.init))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 3}, "2 resolutions need images of at least 4 pixels, got 3 x 3"),
        ({"height": 8, "batch": 0}, "must be at least 1, got 0"),
        ({"height": 8, "channels": ()}, "must be at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepImagePrior(**{"channels": SMALL, **options})  # type: ignore[arg-type]
