"""Maps of one pair of pictures: gradients of the distance, and what the towers attend to, as overlays with a colour scale."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dreamsim_guidance.evaluation.metrics.differentiable import DifferentiableMetric, ImageMetric
from dreamsim_guidance.evaluation.metrics.named_metrics import FileMetric
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.preprocess import load_image, resize
from dreamsim_guidance.sensitivity.attention import class_attention, last_map_distance
from dreamsim_guidance.sensitivity.gradient import COPIES, NOISE, gradient_map
from dreamsim_guidance.types import Image

__all__ = ["PairMap", "overlay", "pair_maps"]

_LONGEST = 384
"""Pixels of the longer side at which the pair is compared."""

Grid = NDArray[np.float64]


@dataclass(frozen=True)
class PairMap:
    """One kind of map of a pair.

    name: what it shows, and of which tower. a, b: the maps of the two pictures, `(rows, columns)`; b is None where one map
    belongs to both. unavailable: why there is none, else "".
    """

    name: str
    a: Grid | None = None
    b: Grid | None = None
    unavailable: str = ""


def pair_maps(
    metrics: Mapping[str, FileMetric], pair: tuple[Path, Path], progress: bool = True
) -> tuple[tuple[Image, Image], dict[str, list[PairMap]]]:
    """Return the two pictures as they were compared, and the maps of each metric.

    Both are reduced to a longer side of 384 pixels; pictures of different sizes to the smaller height and width. What a metric
    cannot give is listed with the reason. Raises as `load_image`.
    """
    x, y = (_reduced(load_image(file)) for file in pair)
    if x.shape != y.shape:
        size = (min(x.shape[-2], y.shape[-2]), min(x.shape[-1], y.shape[-1]))
        x, y = resize(x, size), resize(y, size)
    with tqdm(metrics.items(), desc="maps", unit="metric", disable=not progress) as bar:
        return (x, y), {name: list(_maps(metric, x, y)) for name, metric in bar}


def overlay(pictures: tuple[Image, Image], maps: PairMap) -> bytes:
    """A PNG of the maps over the pictures in grey, with the scale of the colours."""
    assert maps.a is not None
    grids = [maps.a] if maps.b is None else [maps.a, maps.b]
    highest = max(float(grid.max()) for grid in grids)
    height, width = pictures[0].shape[-2:]
    with mpl.rc_context({"font.size": 8, "font.family": "sans-serif", "text.parse_math": False}):
        tall = 1.85 * min(2.0, max(0.5, height / width))
        figure = Figure(figsize=(1.85 * len(grids) + 0.75, tall + 0.25), layout="constrained", dpi=110)
        axes = figure.subplots(1, len(grids), squeeze=False)[0]
        image: Any = None
        for axis, picture, grid, title in zip(axes, pictures, grids, ("first picture", "second picture"), strict=False):
            extent = (0, width, height, 0)
            axis.imshow(picture[0].mean(0).numpy(), cmap="gray", vmin=0, vmax=1, extent=extent)
            image = axis.imshow(
                grid, cmap="inferno", vmin=0, vmax=highest or 1.0, alpha=0.6, extent=extent, interpolation="bilinear"
            )
            axis.set_title("both pictures" if maps.b is None else title)
            axis.set_axis_off()
        figure.colorbar(image, ax=list(axes), fraction=0.05)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _reduced(image: Image) -> Image:
    height, width = image.shape[-2:]
    if max(height, width) <= _LONGEST:
        return image
    scale = _LONGEST / max(height, width)
    return resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def _maps(metric: FileMetric, x: Image, y: Image) -> Iterator[PairMap]:
    name = f"gradient of the distance ({COPIES} noisy copies, standard deviation {NOISE})"
    if not isinstance(metric, DifferentiableMetric):
        yield PairMap(name, unavailable="the metric compares files only")
        return
    try:
        images = metric.on_images()
    except Exception as error:  # weights that are missing, for example; the other metrics go on
        yield PairMap(name, unavailable=_reason(error))
        return
    yield _attempt(name, lambda: (gradient_map(images, y, x), gradient_map(images, x, y)))
    if images.model is None:
        yield PairMap("attention", unavailable="the metric is no DreamSim, so its network is not known")
        return
    yield from _tower_maps(images.model, images, x, y)


def _tower_maps(model: DreamSim, images: ImageMetric, x: Image, y: Image) -> Iterator[PairMap]:
    x, y = x.to(images.device), y.to(images.device)
    if model.ensemble.spatial or model.ensemble.has_patches:
        yield _attempt("distance map", lambda: (model.distance_map(x, y)[0], None))
    with model.ensemble.one_by_one():
        for module in model.ensemble.branches:
            branch, tower = cast(Branch, module), cast(Branch, module).config.name
            square = (branch.config.image_size,) * 2
            a, b = resize(x, square), resize(y, square)
            if branch.plain:
                try:
                    of_a, of_b = class_attention(branch, a), class_attention(branch, b)
                except ValueError as error:
                    yield PairMap(f"attention of {tower}", unavailable=_reason(error))
                    continue
                for kind in of_a:
                    yield PairMap(f"{kind} of {tower}", _grid(of_a[kind][0]), _grid(of_b[kind][0]))
            elif branch.convolutional:
                yield _attempt(f"distances of the last map of {tower}", _last_maps(branch, a, b))
            else:
                reason = "the tower computes its attention out of reach (it is no plain Vision Transformer)"
                yield PairMap(f"attention of {tower}", unavailable=reason)


def _last_maps(branch: Branch, x: Image, y: Image) -> Callable[[], tuple[Tensor, None]]:
    return lambda: (last_map_distance(branch, x, y)[0], None)


def _attempt(name: str, make: Callable[[], tuple[Any, Any]]) -> PairMap:
    try:
        a, b = make()
    except Exception as error:  # a user's metric may raise anything
        return PairMap(name, unavailable=_reason(error))
    return PairMap(name, _grid(a), None if b is None else _grid(b))


def _grid(values: Tensor | Grid) -> Grid:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
