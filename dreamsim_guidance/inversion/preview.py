"""The way to a result as pictures: the latest image, or an animation, written while an inversion runs."""

from __future__ import annotations

import math
import os
from pathlib import Path

from PIL import Image as PILImage
from torch import Tensor
from torchvision.utils import make_grid

from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.types import Distance, Image

__all__ = ["Preview"]


class Preview:
    """A callback of `invert` that writes the images of every few steps; several samples form a grid.

    file: .gif or .webp for an animation of all frames so far; any other ending, such as .png, holds the latest frame.
    every: steps between two frames, at least 1.
    milliseconds: for which each frame of an animation is shown.

    Reading the images waits for the device. Raises ValueError for numbers below 1, and OSError where it cannot write.
    """

    def __init__(self, file: str | os.PathLike[str], every: int = 20, milliseconds: int = 80) -> None:
        if every < 1 or milliseconds < 1:
            raise ValueError(f"every and milliseconds must be at least 1, got {every} and {milliseconds}.")
        self.file, self.every, self.milliseconds = Path(file), every, milliseconds
        self.frames: list[PILImage.Image] = []

    def __call__(self, step: int, images: Image, losses: Distance) -> None:
        if step % self.every:
            return
        self.frames.append(_picture(images))
        animated = self.file.suffix.lower() in (".gif", ".webp")
        first, *further = self.frames if animated else self.frames[-1:]
        with writing(self.file) as temporary:
            if further:
                first.save(temporary, save_all=True, append_images=further, duration=self.milliseconds, loop=0)
            else:
                first.save(temporary)
        if not animated:
            self.frames.clear()


def _picture(images: Tensor) -> PILImage.Image:
    grid = make_grid(images.float().clamp(0, 1).nan_to_num(), math.ceil(len(images) ** 0.5), padding=2, pad_value=1.0)
    return PILImage.fromarray((grid * 255).round().byte().permute(1, 2, 0).cpu().numpy())
