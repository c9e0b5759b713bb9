"""`Preview`: the latest picture or an animation, written while an inversion runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dreamsim_guidance import Pixels, invert
from dreamsim_guidance.inversion import Preview
from dreamsim_guidance.losses import MSE


@pytest.mark.parametrize(("ending", "frames"), [("gif", 3), ("webp", 3), ("png", 1), ("jpg", 1)])
def test_a_preview_holds_every_frame_or_the_latest(tmp_path: Path, ending: str, frames: int) -> None:
    file = tmp_path / "new" / f"way.{ending}"
    loss = MSE(torch.rand(1, 3, 16, 16).round())
    invert(loss, Pixels(16, batch=3), steps=11, callback=Preview(file, every=5), progress=False)
    with Image.open(file) as picture:
        assert getattr(picture, "n_frames", 1) == frames and picture.size == (2 * 18 + 2, 2 * 18 + 2)


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Preview("way.gif", every=0)
