"""From the bytes of picture files to rows of the index: decoded, resized and embedded.

Decoding and resizing (`prepare`) release Python's lock and run in threads ahead of the network (`embed`). A picture is
resized in floating point, as `preprocess.resize` does, so that its embedding is that of `metric.directions(load_image(file))`
but for rounding, and the distances of an index are the metric's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamsim_guidance.files.pictures import PictureError, Reading, decode_pixels
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.fingerprint import fingerprint
from dreamsim_guidance.preprocess import bicubic_bands, resize, to_image, vertical_first
from dreamsim_guidance.retrieval.sources.piece import Picture
from dreamsim_guidance.retrieval.sources.remote import is_url, remote_bytes

__all__ = [
    "Broken",
    "Decoder",
    "Embedder",
    "Prepared",
    "Row",
    "digest_of",
    "index_fingerprint",
    "read_bytes",
    "same_but_for_rounding",
]

Vectors = NDArray[np.float16]

_ROUNDING = 1e-7
"""Distance of a picture to itself after rounding to float16, at most: half the square of 2^-11."""

_DECODERS_FAULTS = (MemoryError, RuntimeError, AttributeError, ArithmeticError, AssertionError)
"""What a decoder may raise, beside what `files.pictures` expects, for a file that was made to break it."""


@dataclass(frozen=True)
class Row:
    """One row of the table `pictures`, without its vector if that is known from another picture of the same digest.

    width, height: in pixels, upright. bytes: size of the picture file. stamp: see `sources.piece.Picture`.
    """

    path: str
    digest: str
    width: int
    height: int
    bytes: int
    stamp: str
    vector: Vectors


@dataclass(frozen=True)
class Broken:
    """One row of the table `broken`."""

    path: str
    reason: str
    stamp: str = ""


@dataclass(frozen=True)
class Prepared:
    """A decoded picture: its size upright, and itself in the size of each branch, `(3, h, w)` float32 in [0, 1]."""

    width: int
    height: int
    images: tuple[Tensor, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Pictures of equal shapes can go through the network in one batch."""
        return tuple(tuple(image.shape) for image in self.images)


class Decoder:
    """Decodes picture files and resizes the pictures for a metric, without the metric itself.

    sides: of the squares that the branches of the metric take; () keeps the pictures' own sizes.
    reading: how files are read, "upright" (the default) or "original"; see `files.pictures`.
    """

    def __init__(self, sides: Sequence[int], reading: Reading = "upright") -> None:
        self.sides = tuple(sides)
        self.reading = reading

    def prepare(self, data: bytes, name: str = "picture") -> Prepared:
        """Decode a picture file and resize the picture to the square of each branch. Safe to call in threads.

        Raises PictureError for bytes that are not a complete picture.
        """
        try:
            pixels = decode_pixels(data, name, self.reading)
        except _DECODERS_FAULTS as error:
            reason = f"{type(error).__name__}: {error}"
            raise PictureError(f"'{name}' cannot be read as an image ({reason})", reason) from error
        try:
            return self._prepared(pixels)
        except ValueError as error:  # floating-point values outside [0, 1]
            raise PictureError(f"'{name}' cannot be read as an image ({error})", str(error)) from error

    def _prepared(self, pixels: NDArray[Any]) -> Prepared:
        height, width = pixels.shape[:2]
        if pixels.dtype == np.uint8 and self.sides:
            return Prepared(width, height, squashed(pixels, self.sides))
        image = to_image(pixels)
        images = [resize(image, (side, side)) for side in self.sides] if self.sides else [image]
        return Prepared(width, height, tuple(x[0] for x in images))


class Embedder(Decoder):
    """A metric that embeds the bytes of picture files.

    metric: a `DreamSim` that joins features into one vector (not `spatial`).
    reading: how files are read, "upright" (the default) or "original"; see `files.pictures`.
    batch: pictures that go through the network at once; by default 32.

    Raises ValueError for a spatial metric, whose maps are too large for a table.
    """

    def __init__(self, metric: DreamSim, reading: Reading = "upright", batch: int = 32) -> None:
        if metric.ensemble.spatial:
            raise ValueError("a spatial metric compares maps, which are too large for a table; use its pooled form.")
        super().__init__(
            sorted({config.image_size for config in metric.ensemble.configs}) if metric.resize else (), reading
        )
        self.metric = metric
        self.batch = batch

    def probe(self) -> Vectors:
        """The vector `(d,)` of a fixed picture, by which two metrics are compared up to rounding."""
        rows, columns = np.mgrid[0:64, 0:96]
        picture = np.stack([rows * 4, columns * 2, (rows // 8 + columns // 8) % 2 * 255], axis=2).astype(np.uint8)
        return self.embed([self._prepared(picture)])[0]

    def embed(self, pictures: Sequence[Prepared]) -> Vectors:
        """Return the unit vectors of pictures, `(n, d)` float16, in order; pictures of one shape share a batch.

        Raises ValueError for embeddings that are not finite.
        """
        vectors: list[Vectors | None] = [None] * len(pictures)
        for shapes in dict.fromkeys(picture.shapes for picture in pictures):
            places = [i for i, picture in enumerate(pictures) if picture.shapes == shapes]
            for first in range(0, len(places), self.batch):
                chosen = places[first : first + self.batch]
                for i, vector in zip(chosen, self._directions([pictures[i] for i in chosen]), strict=True):
                    vectors[i] = vector
        return np.stack([vector for vector in vectors if vector is not None])

    def rows(self, pictures: Iterable[Picture]) -> tuple[list[Row], list[Broken]]:
        """Read, decode and embed pictures, each content once; return the rows and the pictures that are broken.

        This is the whole step for one batch, for engines that schedule batches themselves.
        """
        good: list[tuple[Picture, str, int]] = []
        broken: list[Broken] = []
        prepared: dict[str, Prepared] = {}
        for picture in pictures:
            try:
                data = read_bytes(picture)
                digest = digest_of(data)
                if digest not in prepared:
                    prepared[digest] = self.prepare(data, picture.path)
            except PictureError as error:
                broken.append(Broken(picture.path, error.reason, picture.stamp))
            except OSError as error:
                broken.append(Broken(picture.path, error.strerror or str(error)))
            else:
                good.append((picture, digest, len(data)))
        vectors = dict(zip(prepared, self.embed(list(prepared.values())), strict=True)) if prepared else {}
        rows = [
            Row(p.path, digest, prepared[digest].width, prepared[digest].height, size, p.stamp, vectors[digest])
            for p, digest, size in good
        ]
        return rows, broken

    def _directions(self, pictures: Sequence[Prepared]) -> Vectors:
        device, dtype = self.metric.device, torch.promote_types(self.metric.dtype, torch.float32)
        batches = [torch.stack(images).to(device, dtype) for images in zip(*(p.images for p in pictures), strict=True)]
        with torch.inference_mode():
            images = dict(zip(self.sides, batches, strict=True)) if self.sides else batches[0]
            vectors = self.metric.directions(images).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ValueError("the metric gives embeddings that are not finite; look at its weights.")
        return vectors.astype(np.float16)


def same_but_for_rounding(a: Sequence[float], b: Vectors) -> bool:
    """Whether two probes differ by no more than the rounding of stored vectors."""
    if len(a) != len(b):
        return False
    return bool(0.5 * np.square(np.asarray(a, np.float64) - b.astype(np.float64)).sum() < _ROUNDING)


def index_fingerprint(metric: DreamSim, reading: Reading = "upright") -> str:
    """The fingerprint of an index: of the metric's weights, of its preprocessing and of the reading of files."""
    return fingerprint(metric, {"index": 1, "reading": reading, "resize": metric.resize})


def read_bytes(picture: Picture) -> bytes:
    """The bytes of a picture file. Raises PictureError with the picture's fault, OSError where the file cannot be read."""
    if picture.fault is not None:
        raise PictureError(picture.fault)
    if picture.data is not None:
        return picture.data
    if is_url(picture.path):
        return remote_bytes(picture.path)
    assert picture.file is not None  # there is no fault
    # never waits, should the file have become a pipe
    with os.fdopen(
        os.open(picture.file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
    ) as file:
        return file.read()


def digest_of(data: bytes) -> str:
    """The SHA-256 of the bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def squashed(pixels: NDArray[Any], sides: Sequence[int]) -> tuple[Tensor, ...]:
    """An array `(h, w, 3)` uint8 as `(3, side, side)` float32 in [0, 1] for each side, resized as `preprocess.resize` does.

    Without the zeros of the tables, and with one conversion for all sides, this takes a small part of the time.
    """
    height, width = pixels.shape[:2]
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float()
    squares = []
    for side in sides:
        x = image
        first = vertical_first((height, width), (side, side))
        for vertical in (first, not first):
            x = _in_columns(x, side) if vertical else _in_rows(x, side)
        squares.append(x / 255)
    return tuple(squares)


def _in_rows(x: Tensor, size: int) -> Tensor:
    """Resize the last dimension of `(3, h, w)` to `size`, and clamp to [0, 255]."""
    if x.shape[-1] == size:
        return x
    rows = x.flatten(0, 1)
    resized = [rows[:, first:last] @ weights for first, last, weights in bicubic_bands(x.shape[-1], size)]
    return torch.cat(resized, dim=1).clamp_(0, 255).unflatten(0, x.shape[:2])


def _in_columns(x: Tensor, size: int) -> Tensor:
    """Resize the height of `(3, h, w)` to `size`, and clamp to [0, 255]."""
    if x.shape[-2] == size:
        return x
    resized = [weights.T @ x[:, first:last] for first, last, weights in bicubic_bands(x.shape[-2], size)]
    return torch.cat(resized, dim=1).clamp_(0, 255)
