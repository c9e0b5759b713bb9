"""Parts and random views of images. Only this module cuts and augments images.

    cut(images, box)                      a fixed part, its box given in fractions of height and width
    RandomChanges(...).chain(size)        crop, flip, rotation, colour, blur and noise, from kornia
    RandomShift(pixels)                   the images moved by a few pixels
    random_view(transform, images, g)     one view by a chain or any other transform, its random numbers from g
    random_crop, random_squares, recolour the views of the pocket models' training, without kornia

All random numbers come from a `torch.Generator` that is passed in; torch's global generators are not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamsim_guidance.types import Image

__all__ = [
    "FULL",
    "Box",
    "RandomChanges",
    "RandomShift",
    "chosen_views",
    "cut",
    "grid",
    "numbered_generator",
    "random_crop",
    "random_squares",
    "random_view",
    "recolour",
]

Box = Sequence[int | float]
"""(top, left, bottom, right) in [0, 1]."""

FULL: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def grid(
    rows: int, columns: int | None = None, overlap: int | float = 0.25
) -> tuple[tuple[float, float, float, float], ...]:
    """Boxes that cover the picture in a grid, row by row.

    rows, columns: size of the grid, at least 1; by default there are as many columns as rows.
    overlap: share of a box's width and height that it has in common with its neighbour, in [0, 1).

    Raises ValueError for other numbers.
    """
    columns = rows if columns is None else columns
    if rows < 1 or columns < 1 or not 0 <= overlap < 1:
        raise ValueError(f"rows and columns must be >= 1 and overlap in [0, 1), got {rows}, {columns} and {overlap}.")
    return tuple(
        (top, left, bottom, right) for top, bottom in _spans(rows, overlap) for left, right in _spans(columns, overlap)
    )


def cut(images: Tensor, box: Box, widen: bool = False) -> Tensor:
    """The part of images `(..., h, w)` inside the box; it shares their memory.

    box: fractions, rounded to whole pixels.
    widen: take one pixel where the box is too narrow to hold any, instead of raising.

    Raises ValueError for a box outside the image or, without `widen`, one that holds no pixel.
    """
    top, left, bottom, right = box
    if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
        raise ValueError(
            f"a crop is (top, left, bottom, right) with 0 <= top < bottom <= 1 and so on, got {tuple(box)}."
        )
    height, width = images.shape[-2:]
    rows, columns = _pixels(top, bottom, height, widen), _pixels(left, right, width, widen)
    part = images[..., rows, columns]
    if 0 in part.shape:
        raise ValueError(
            f"the crop {tuple(box)} of an image of {height} x {width} pixels is empty; use larger images or crops."
        )
    return part


def numbered_generator(seed: int, number: int | float) -> torch.Generator:
    """A CPU generator for the view or step of this number; the same seed and number give the same random numbers."""
    return torch.Generator().manual_seed(seed * 1_000_003 + int(number))


def chosen_views(count: int, draw: int, generator: torch.Generator) -> tuple[int, ...]:
    """Draw different numbers below `count`, at most `draw` of them, in random order."""
    return tuple(torch.randperm(count, generator=generator)[:draw].tolist())


def random_view(transform: Callable[[Tensor], Any], images: Tensor, generator: torch.Generator) -> Any:
    """Apply `transform` to images, with random numbers from `generator` instead of torch's global generators.

    transform: a function or module that draws from torch's global generators, such as a chain of kornia's augmentations.
    generator: a CPU generator, which advances by the numbers that are drawn. If the images are on a CUDA device, that
        device's generator is seeded from it for the call.

    Afterwards torch's global generators are in the state they had before, except that `torch.default_generator` advances
    if it is the one that is passed.
    """
    if generator is torch.default_generator:
        return transform(images)
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        if images.is_cuda:
            twin = torch.Generator()
            twin.set_state(generator.get_state())
            torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=twin)))
        torch.default_generator.set_state(generator.get_state())
        try:
            return transform(images)
        finally:
            generator.set_state(torch.default_generator.get_state())


class RandomShift(nn.Module):
    """Move images by a random number of whole pixels in each direction, all of a batch alike; mirrored pixels fill the edge.

    pixels: the largest shift, smaller than the images. The numbers come from torch's global CPU generator.
    """

    def __init__(self, pixels: int = 4) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Image) -> Image:
        height, width = images.shape[-2:]
        top, left = torch.randint(0, 2 * self.pixels + 1, (2,)).tolist()
        padded = F.pad(images, (self.pixels,) * 4, mode="reflect")
        return padded[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class RandomChanges:
    """The random changes of a view, applied in this order: crop, flip, rotation, colour, blur, noise."""

    crop: tuple[float, float] | None = None
    """Range of the share of the area that the crop keeps; the crop is resized to the full size. None does not crop."""
    ratio: tuple[float, float] = (0.8, 1.25)
    """Range of the crop's aspect ratio."""
    flip: float = 0.0
    """Probability of mirroring left and right."""
    degrees: float = 0.0
    """Largest angle of the rotation, in either direction."""
    rotated: float = 1.0
    """Probability of a rotation."""
    rotate_first: bool = False
    """Rotate before the crop instead of after the flip."""
    colour: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Largest change of brightness, contrast and saturation, relative to 1, and of hue, in cycles."""
    coloured: float = 1.0
    """Probability of a change of colour."""
    added_brightness: bool = False
    """Add to the brightness (kornia's ColorJiggle) instead of scaling it (ColorJitter, as in torchvision)."""
    blur: float = 0.0
    """Probability of a Gaussian blur of 3 x 3 pixels."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, after which the images are not clamped."""
    alike: bool = False
    """Use the same random numbers for all images of a batch, instead of different ones for each."""

    def chain(self, size: tuple[int, int]) -> nn.Module:
        """Build the module that changes images and returns them in `size` = (height, width).

        It draws from torch's CPU generator; `random_view` makes it draw from another.
        """
        import kornia.augmentation as K

        alike: dict[str, Any] = {"same_on_batch": self.alike}
        parts: list[Any] = []
        if self.crop is not None:
            parts.append(K.RandomResizedCrop(size, scale=self.crop, ratio=self.ratio, **alike))
        if self.flip:
            parts.append(K.RandomHorizontalFlip(p=self.flip, **alike))
        if self.degrees:
            rotation = K.RandomAffine(self.degrees, padding_mode="reflection", p=self.rotated, **alike)
            parts.insert(0 if self.rotate_first else len(parts), rotation)
        if any(self.colour):
            kind: Any = K.ColorJiggle if self.added_brightness else K.ColorJitter
            parts.append(kind(*self.colour, p=self.coloured, **alike))
        if self.blur:
            parts.append(K.RandomGaussianBlur((3, 3), (0.3, 1.5), p=self.blur, **alike))
        if self.noise:
            parts.append(K.RandomGaussianNoise(std=self.noise, p=1.0, **alike))
        if not parts:
            return nn.Identity()
        return K.AugmentationSequential(*parts, data_keys=["input"], same_on_batch=self.alike or None)


def random_crop(
    image: Float[Tensor, "1 3 h w"], size: int, generator: torch.Generator, smallest: float = 0.3
) -> Float[Tensor, "1 3 size size"]:
    """Cut a random square from an image, mirror it in half of all cases, and resample it to `(1, 3, size, size)`.

    smallest: smallest side of the square as a share of the image's shorter side.
    """
    height, width = image.shape[-2:]
    u = torch.rand(4, generator=generator, dtype=torch.float32).tolist()
    side = max(1, int(min(height, width) * (smallest + (1 - smallest) * u[0])))
    top, left = int(u[1] * (height - side + 1)), int(u[2] * (width - side + 1))
    crop = image[..., top : top + side, left : left + side]
    crop = F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return (crop.flip(-1) if u[3] < 0.5 else crop).clamp(0, 1)


def random_squares(
    images: Image, size: int, share: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, "b 3 side side"]:
    """Cut one random square from each image and resample it to `(b, 3, size, size)`.

    share: range of the square's side as a share of the image's side.

    Squares are not mirrored, since a metric has to distinguish left from right.
    """
    count = len(images)
    u = torch.rand(count, 3, generator=generator, dtype=torch.float32)
    side = share[0] + (share[1] - share[0]) * u[:, :1]
    shift = (1 - side) * (2 * u[:, 1:] - 1)
    theta = torch.zeros(count, 2, 3, dtype=torch.float32)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side[:, 0], side[:, 0], shift
    places = F.affine_grid(theta.to(images), [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def recolour(images: Image, generator: torch.Generator) -> Image:
    """Rotate the chroma of each image by up to 30 degrees, scale it, change brightness and contrast, all a little."""
    u = torch.rand(len(images), 4, 1, 1, 1, generator=generator, dtype=torch.float32)
    angle = (2 * u[:, 0] - 1) * (math.pi / 6)
    chroma = 0.8 + 0.4 * u[:, 1]
    grey = images.mean(1, keepdim=True)
    around = images - grey
    across = (around.roll(1, 1) - around.roll(-1, 1)) / math.sqrt(3)  # a quarter turn about the grey axis
    colours = grey + chroma * (torch.cos(angle) * around + torch.sin(angle) * across)
    middle = grey.mean((2, 3), keepdim=True)
    return ((colours - middle) * (0.8 + 0.4 * u[:, 2]) + middle + 0.2 * (u[:, 3] - 0.5)).clamp(0, 1)


def _spans(count: int, overlap: int | float) -> list[tuple[float, float]]:
    length = 1 / (count - (count - 1) * overlap)
    starts = [i * length * (1 - overlap) for i in range(count)]
    return [(start, min(start + length, 1.0)) for start in starts]


def _pixels(first: int | float, last: int | float, length: int, widen: bool) -> slice:
    start, stop = round(first * length), round(last * length)
    if widen:
        start = min(start, length - 1)
        stop = max(stop, start + 1)
    return slice(start, stop)
