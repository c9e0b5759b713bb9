"""All functions that take images refuse wrong ones with an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from dreamsim_guidance import DreamSim
from dreamsim_guidance.metric.compat import preprocess

pytestmark = pytest.mark.usefixtures("unchecked")

GOOD = torch.rand(1, 3, 32, 32)
PICTURE = PILImage.new("RGB", (40, 30), "red")

PLACES: dict[str, Callable[[DreamSim, object], object]] = {
    "x": lambda metric, images: metric(images, GOOD),
    "y": lambda metric, images: metric(GOOD, images),
    "embed": lambda metric, images: metric.embed(images),  # type: ignore[arg-type]
    "target": lambda metric, images: metric.target(images),  # type: ignore[arg-type]
    "candidate": lambda metric, images: metric.target(GOOD)(images),
    "map": lambda metric, images: metric.distance_map(images, GOOD),  # type: ignore[arg-type]
}
CAT = r"preprocess already adds the batch dimension, .*torch\.cat"
WRONG: dict[str, tuple[object, type[Exception], str]] = {
    "stacked results of preprocess": (torch.stack([preprocess(PICTURE)] * 2), ValueError, CAT),
    "a batch of one of them": (preprocess(PICTURE)[None], ValueError, CAT),
    "one image": (GOOD[0], ValueError, r"use x.unsqueeze\(0\)"),
    "one plane": (GOOD[0, 0], ValueError, "pass one batch of images"),
    "channels last": (GOOD.permute(0, 2, 3, 1), ValueError, r"use x.permute\(0, 3, 1, 2\)"),
    "grey": (GOOD[:, :1], ValueError, "use x.expand"),
    "alpha": (torch.rand(1, 4, 32, 32), ValueError, "alpha"),
    "bytes": ((GOOD * 255).byte(), TypeError, r"use x.float\(\) / 255"),
    "whole numbers": (torch.zeros(1, 3, 8, 8, dtype=torch.int64), TypeError, r"use x.float\(\) / 255"),
    "complex numbers": (GOOD.to(torch.complex64), TypeError, "must be floating point"),
    "no images": (GOOD[:0], ValueError, "at least one image"),
    "no pixels": (GOOD[..., :0], ValueError, "at least one pixel"),
    "a PIL image": (PICTURE, TypeError, "to_image for a PIL image or an array"),
    "an array": (np.zeros((32, 32, 3)), TypeError, "to_image for a PIL image or an array"),
    "a path": ("a.png", TypeError, "load_image for a file"),
    "nothing": (None, TypeError, "got NoneType"),
    "[0, 255]": (GOOD * 255, ValueError, "use x / 255"),
    "[-1, 1]": (GOOD * 2 - 1, ValueError, r"use \(x \+ 1\) / 2"),
    "nan": (GOOD * torch.nan, ValueError, "NaN"),
}


@pytest.mark.parametrize(("place", "wrong"), [(place, wrong) for place in PLACES for wrong in WRONG])
def test_wrong_images_are_refused_with_a_cure(place: str, wrong: str, metric: DreamSim, patch_metric: DreamSim) -> None:
    images, error, message = WRONG[wrong]
    if place == "target" and isinstance(images, str):
        message = "load_image for a file"
    with pytest.raises(error, match=message):
        PLACES[place](patch_metric if place == "map" else metric, images)


def test_joined_results_of_preprocess_are_a_batch(metric: DreamSim) -> None:
    batch = torch.cat([preprocess(PICTURE)] * 2)
    torch.testing.assert_close(metric(batch, preprocess(PICTURE)), torch.zeros(2), atol=1e-9, rtol=0)
