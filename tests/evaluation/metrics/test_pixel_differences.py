"""Pixel metrics against their formulas and against other implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreamsim_guidance import save_image
from dreamsim_guidance.evaluation.metrics.named_metrics import (
    load_metrics,
)
from dreamsim_guidance.evaluation.metrics.pixel_differences import ms_ssim, mse, psnr, ssim


def test_pixel_metrics_are_their_formulas() -> None:
    from skimage.metrics import structural_similarity
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    x = torch.nn.functional.interpolate(torch.rand(2, 3, 24, 24), (180, 190), mode="bicubic").clamp(0, 1)
    y = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
    torch.testing.assert_close(psnr(x, y), -10 * torch.log10(1 / mse(x, y)))
    options: Any = {"channel_axis": 0, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    theirs = [
        1 - structural_similarity(a.numpy(), b.numpy(), use_sample_covariance=False, **options)
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ssim(x, y), theirs, atol=1e-4)
    similarity = multiscale_structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    # theirs lets the window of the last scale reach into a mirrored picture
    np.testing.assert_allclose(ms_ssim(x, y), 1 - similarity, atol=5e-3)
    for distance in (mse, ssim, ms_ssim):
        assert torch.equal(distance(x, x).round(decimals=6), torch.zeros(2))
    assert psnr(x, x).tolist() == [-100, -100]


def test_pictures_of_two_sizes_are_compared_at_the_smaller_size(tmp_path: Path) -> None:
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    save_image(torch.rand(1, 3, 40, 30), a)
    save_image(torch.rand(1, 3, 20, 50), b)
    distances = load_metrics(["psnr"])["psnr"].distances([(a, b), (b, a)], False)
    both = []
    for file in (a, b):
        with Image.open(file) as picture:
            both.append(np.array(picture.resize((30, 20), Image.Resampling.BICUBIC)) / 255)
    assert distances.tolist() == pytest.approx([10 * np.log10(np.square(both[0] - both[1]).mean())] * 2, abs=1e-4)
