"""Low-level robustness: how far a metric moves under distortions of rising strength, on its own scale.

For every metric and kind of distortion it reports

    relative         mean distance of a picture to its distorted version: 0 is that to itself, 1 that between unrelated pictures
    rising           mean over pictures of Kendall's tau-a of strength and distance: 1 if every further step moves the metric
                     further, 0 without relation; the undistorted picture is not among the steps
    shift variance   the relative distance averaged over the shifts by 1, 2, 3, 4, 6 and 8 pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from tqdm import tqdm

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.scene import sample_scene, scene_generator
from dreamsim_guidance.evaluation.statistics.intervals import Interval
from dreamsim_guidance.files.pictures import read_rgb
from dreamsim_guidance.sensitivity.distortions import SHIFT, STRENGTHS, canvas_of, distorted, window_at_rest
from dreamsim_guidance.sensitivity.step_pairs import split_distances
from dreamsim_guidance.sensitivity.summaries import Bootstrap, mean, ratios, same_order

__all__ = [
    "DistortedPictures",
    "DistortionCurve",
    "Robustness",
    "distort_pictures",
    "robustness_curves",
]

_DRAWN_SIDE = 320


@dataclass(frozen=True)
class DistortedPictures:
    """Files of n pictures and of their distorted versions, by kind and strength."""

    references: tuple[Path, ...]
    variants: dict[tuple[str, float], tuple[Path, ...]]


@dataclass(frozen=True)
class DistortionCurve:
    """The answer of a metric to one kind of distortion, by rising strength."""

    strengths: tuple[float, ...]
    distance: list[Interval]
    relative: list[Interval]
    rising: Interval


@dataclass(frozen=True)
class Robustness:
    """The curves of a metric by kind of distortion, and its shift variance.

    unrelated, identical: the mean distance between different pictures, and of a picture to itself, as in `FactorProfile`.
    """

    unrelated: Interval
    identical: Interval
    curves: dict[str, DistortionCurve]
    shift_variance: Interval


def distort_pictures(
    sources: Sequence[Path] | int, folder: Path, window: int, progress: bool = True
) -> DistortedPictures:
    """Write the windows of pictures and all their distortions into the folder, `window` pixels wide.

    sources: picture files, or a number of scenes to draw.
    """
    count = sources if isinstance(sources, int) else len(sources)
    references: list[Path] = []
    variants: dict[tuple[str, float], list[Path]] = {(k, s): [] for k, values in STRENGTHS.items() for s in values}
    for number in tqdm(range(count), desc="distorting", unit="picture", disable=not progress):
        picture = _scene(number) if isinstance(sources, int) else read_rgb(sources[number])
        canvas = canvas_of(picture, window)
        references.append(folder / f"window_{number:04d}.png")
        _write(window_at_rest(canvas, window), references[-1])
        for place, ((kind, strength), files) in enumerate(variants.items()):
            files.append(folder / f"window_{number:04d}_{place:02d}.png")
            _write(distorted(canvas, window, kind, strength, number), files[-1])
    return DistortedPictures(tuple(references), {step: tuple(files) for step, files in variants.items()})


def robustness_curves(distances: NDArray[np.float64], pictures: DistortedPictures, bootstrap: Bootstrap) -> Robustness:
    """Summarise a metric's distances to the pairs of `step_pairs`. Intervals resample pictures."""
    count, steps = len(pictures.references), list(pictures.variants)
    split = split_distances(distances, count, len(steps))
    shifts = split.moved[[i for i, (kind, _) in enumerate(steps) if kind == SHIFT]].mean(0)
    above = np.concatenate([split.moved, shifts[None]])
    relative = ratios(above, np.tile(split.scale(bootstrap), (len(above), 1)), bootstrap)
    clusters = np.arange(count)
    curves = {}
    for kind, strengths in STRENGTHS.items():
        places = [steps.index((kind, strength)) for strength in strengths]
        curves[kind] = DistortionCurve(
            strengths,
            [mean(split.steps[i], clusters, bootstrap) for i in places],
            [relative.interval(i, bootstrap.level) for i in places],
            mean(same_order(split.steps[places].T), clusters, bootstrap),
        )
    return Robustness(*split.means(bootstrap), curves, relative.interval(len(steps), bootstrap.level))


def _scene(number: int) -> PILImage.Image:
    pixels = draw(sample_scene(scene_generator(number, "test")), _DRAWN_SIDE)[0]
    return PILImage.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())


def _write(picture: PILImage.Image, file: Path) -> None:
    picture.save(file, compress_level=1)
