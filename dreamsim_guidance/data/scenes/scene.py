"""Scenes with known factors: everything that distinguishes two pictures is known before they are drawn.

If the difference between two pictures is known, a distance can be tested without human judgments. A `Scene` is the list of its
factors (the axes along which the triplets of NIGHTS vary), and the distance between two scenes is the weighted mean over the
factors,

    d(a, b) = sum_f w_f d_f(a, b) / sum_f w_f,   d_f in [0, 1],

which is a metric: kinds differ by 0 or 1, colours by their distance in OKLab, rotations by their angle up to the
symmetry of the shape, and so on. `drawing.draw` makes the picture and `captions.caption` the words.

Fu et al., DreamSim, NeurIPS 2023 (the axes); Ottosson, A perceptual color space for image processing, 2020 (OKLab).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch

__all__ = [
    "FACTORS",
    "SPLITS",
    "WEIGHTS",
    "Scene",
    "factor_distance",
    "factor_distances",
    "sample_scene",
    "scene_generator",
]

SYMMETRY: Mapping[str, int] = MappingProxyType(
    {
        "circle": 0,
        "square": 4,
        "triangle": 3,
        "star": 5,
        "cross": 4,
        "heart": 1,
        "hexagon": 6,
        "ring": 0,
        "moon": 1,
        "arrow": 1,
        "flower": 6,
        "house": 1,
    }
)
"""Shapes, and the number of rotations that leave each unchanged; 0 means all rotations."""

SHAPES = tuple(SYMMETRY)
LAYOUTS = ("row", "column", "diagonal", "ring", "grid", "scattered")
BACKGROUNDS = ("plain", "gradient", "horizon", "stripes", "checks", "clouds")
TEXTURES = ("plain", "stripes", "dots", "checks", "waves", "speckles")
STYLES = ("flat", "outlined", "shaded", "sketch", "neon", "watercolour", "grainy", "mosaic")
COUNTS = (1, 6)
SCALES = (0.6, 1.3)
LEAN = 0.125
COLOUR_RANGE = 0.6
"""Distance in OKLab from which colours count as entirely different."""

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "shape": 1.0,
        "colour": 1.0,
        "count": 0.7,
        "layout": 0.7,
        "rotation": 0.4,
        "scale": 0.5,
        "perspective": 0.4,
        "background": 0.8,
        "texture": 0.4,
        "style": 0.8,
    }
)
"""The weight of each factor. Chosen, not measured: identity first, then setting and style, then pose."""

FACTORS = tuple(WEIGHTS)

SPLITS = ("train", "val", "test")
"""Scenes are numbered within a split; different splits have no scene in common."""

HSV = tuple[float, float, float]
DARKEST, PALEST = 0.25, 0.15


@dataclass(frozen=True)
class Scene:
    """The factors of one picture. `seed` decides what they leave open (jitter, grain, places); it is no factor."""

    shape: str
    colour: HSV
    """Hue, saturation and value of the foreground, each in [0, 1]."""
    count: int
    layout: str
    rotation: float
    """Of every object, in full turns, between -1/8 and 1/8: objects stand more or less upright."""
    scale: float
    perspective: tuple[float, float]
    """How far the plane of the scene is turned (left to right) and tipped (front to back), each in [-1, 1]."""
    background: str
    background_colour: HSV
    texture: str
    style: str
    seed: int

    def __post_init__(self) -> None:
        allowed = {"shape": SHAPES, "layout": LAYOUTS, "background": BACKGROUNDS, "texture": TEXTURES, "style": STYLES}
        for name, kinds in allowed.items():
            if getattr(self, name) not in kinds:
                raise ValueError(f"unknown {name} '{getattr(self, name)}'; known: {', '.join(kinds)}.")


def scene_generator(number: int, split: str = "train") -> torch.Generator:
    """Return the random generator of scene `number` of a split, so that each scene or triplet is reproducible on its own."""
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; known: {', '.join(SPLITS)}.")
    return torch.Generator().manual_seed(len(SPLITS) * number + SPLITS.index(split))


def sample_scene(generator: torch.Generator) -> Scene:
    """Return a scene with all factors drawn at random; its two colours differ visibly."""
    u = torch.rand(16, generator=generator).tolist()
    colour = _colour(u[0:3])
    background_colour = _colour(u[3:6], pale=True)
    while _colour_distance(colour, background_colour) < 0.35:
        background_colour = _colour(torch.rand(3, generator=generator).tolist(), pale=True)
    return Scene(
        shape=pick(SHAPES, u[6]),
        colour=colour,
        count=COUNTS[0] + int(u[7] * (COUNTS[1] - COUNTS[0] + 1)),
        layout=pick(LAYOUTS, u[8]),
        rotation=(2 * u[9] - 1) * LEAN,
        scale=SCALES[0] + u[10] * (SCALES[1] - SCALES[0]),
        perspective=(2 * u[11] - 1, 2 * u[12] - 1),
        background=pick(BACKGROUNDS, u[13]),
        background_colour=background_colour,
        texture=pick(TEXTURES, u[14]),
        style=pick(STYLES, u[15]),
        seed=random_seed(generator),
    )


def factor_distances(a: Scene, b: Scene) -> dict[str, float]:
    """Return how much two scenes differ in each factor, in [0, 1]."""
    low, high = SCALES
    turned = math.hypot(a.perspective[0] - b.perspective[0], a.perspective[1] - b.perspective[1])
    return {
        "shape": float(a.shape != b.shape),
        "colour": _colour_distance(a.colour, b.colour),
        "count": abs(a.count - b.count) / (COUNTS[1] - COUNTS[0]),
        "layout": float(a.layout != b.layout),
        "rotation": _rotation_distance(a, b),
        "scale": abs(a.scale - b.scale) / (high - low),
        "perspective": turned / math.hypot(2, 2),
        "background": 0.5 * (a.background != b.background)
        + 0.5 * _colour_distance(a.background_colour, b.background_colour),
        "texture": float(a.texture != b.texture),
        "style": float(a.style != b.style),
    }


def factor_distance(a: Scene, b: Scene) -> float:
    """Return the mean of `factor_distances`, weighted by `WEIGHTS`, in [0, 1]; 0 for equal factors, whatever the seeds."""
    distances = factor_distances(a, b)
    return sum(WEIGHTS[name] * value for name, value in distances.items()) / sum(WEIGHTS.values())


def _rotation_distance(a: Scene, b: Scene) -> float:
    if a.shape != b.shape:
        return 0.5
    if SYMMETRY[a.shape] == 0:
        return 0.0
    turns = (a.rotation - b.rotation) * SYMMETRY[a.shape] % 1.0
    return 2 * min(turns, 1 - turns)


def _colour_distance(a: HSV, b: HSV) -> float:
    return min(1.0, math.dist(oklab(a), oklab(b)) / COLOUR_RANGE)


def oklab(colour: HSV) -> tuple[float, float, float]:
    """Return the colour in OKLab: lightness and two opponent colours, in which equal steps look about equally large."""
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colorsys.hsv_to_rgb(*colour))
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def _colour(u: Sequence[float], pale: bool = False) -> HSV:
    saturation = u[1] ** 1.5 if pale else 1 - (1 - PALEST) * u[1] ** 2
    return u[0], saturation, DARKEST + (1 - DARKEST) * u[2] ** 0.5


def random_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def pick(kinds: Sequence[str], u: float) -> str:
    return kinds[min(int(u * len(kinds)), len(kinds) - 1)]
