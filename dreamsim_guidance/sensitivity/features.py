"""Simple features of a picture whose distances are compared with a metric's decisions.

Each is a vector, and its distance that of two vectors:

    colour     joint histogram of R, G, B with 8 soft bins each, at 64 x 64 pixels; distance: Hellinger's
    layout     luminance at 8 x 8 pixels; distance: Euclidean
    depth      depth at 8 x 8, scaled to [0, 1] within each picture; distance: Euclidean
    category   0 if both pictures have the same category, else 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dreamsim_guidance.data.pictures import decode
from dreamsim_guidance.sensitivity.companions import read_grey

__all__ = ["FEATURES", "feature_vectors"]

FEATURES = ("colour", "layout", "depth", "category")

_BINS, _SIDE, _GRID = 8, 64, 8
_LUMA = (0.299, 0.587, 0.114)

Vectors = NDArray[np.float64]


def feature_vectors(
    pictures: Sequence[Path], depth: Mapping[Path, Path] | None = None, categories: Mapping[Path, str] | None = None
) -> dict[str, Vectors]:
    """Return for each feature a table `(n, d)`: the feature's distance is the Euclidean distance of two rows.

    depth: the file of each picture's depth map, if there are any. categories: the category of each picture.
    """
    vectors = {
        "colour": np.stack([_histogram(file) for file in pictures]),
        "layout": np.stack([_luminance(file) for file in pictures]),
    }
    if depth is not None:
        vectors["depth"] = np.stack([_depth(depth[file], file) for file in pictures])
    if categories is not None:
        names = sorted({categories[file] for file in pictures})
        rows = np.array([names.index(categories[file]) for file in pictures])
        vectors["category"] = np.eye(len(names))[rows] / np.sqrt(2)
    return vectors


def _histogram(file: Path) -> Vectors:
    """Square roots of the histogram; half the squared distance of two is Hellinger's, squared."""
    pixels = decode(file, (_SIDE, _SIDE)).flatten(1).double() / 255
    centres = torch.linspace(0, 1, _BINS, dtype=torch.float64)
    r, g, b = (1 - (pixels[:, :, None] - centres).abs() * (_BINS - 1)).clamp(min=0)
    histogram = torch.einsum("pi,pj,pk->ijk", r, g, b) / pixels.shape[1]
    return (histogram.sqrt().flatten() / np.sqrt(2)).numpy()


def _luminance(file: Path) -> Vectors:
    pixels = decode(file, (_SIDE, _SIDE)).double() / 255
    grey = sum(weight * channel for weight, channel in zip(_LUMA, pixels, strict=True))
    assert isinstance(grey, torch.Tensor)
    return _coarse(grey)


def _depth(file: Path, picture: Path) -> Vectors:
    _, height, width = decode(picture).shape
    grey = read_grey(file, picture, (height, width))
    low, high = grey.min(), grey.max()
    return _coarse(torch.from_numpy((grey - low) / (high - low) if high > low else grey * 0))


def _coarse(grey: torch.Tensor) -> Vectors:
    return F.adaptive_avg_pool2d(grey[None, None], (_GRID, _GRID)).flatten().numpy()
