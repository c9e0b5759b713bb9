"""The tiny pipelines of the tests: each family runs, depends on its seed only, and makes images with contrast."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import FAMILIES, build
from tiny_schedulers import CONFIGURATIONS, schedulers


@pytest.mark.parametrize("family", FAMILIES)
def test_the_images_have_contrast_and_depend_on_the_seed_only(family: str) -> None:
    tiny = build(family)
    images = tiny.call(seed=3, batch=2, steps=2)
    assert tiny.family == family
    assert images.shape[1:] in {(3, 32, 32), (3, 16, 16)}
    assert len(images) == (4 if family == "animatediff" else 2)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.1
    assert torch.equal(images, build(family).call(seed=3, batch=2, steps=2))
    assert (images - tiny.call(seed=4, batch=2, steps=2)).abs().mean() > 0.01


def test_the_configurations_cover_at_least_22_classes_of_schedulers() -> None:
    pytest.importorskip("torchsde")
    by_name = dict(schedulers())
    assert set(by_name) == set(CONFIGURATIONS)
    assert len({type(scheduler) for scheduler in by_name.values()}) >= 22
