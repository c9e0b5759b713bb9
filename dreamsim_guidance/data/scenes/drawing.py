"""Draws the picture of a scene from its factors.

The objects lie in a plane, [-1, 1]^2, which a homography turns and tips; patterns (texture, background) are functions on that
plane, evaluated through the inverse homography. Masks are drawn at four times the size and averaged; everything else is
arithmetic on arrays of the picture's size. A picture of 64 x 64 takes two milliseconds.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import Tensor
from torchvision.utils import make_grid

from dreamsim_guidance.data.scenes.patterns import background, grid, texture
from dreamsim_guidance.data.scenes.scene import Scene
from dreamsim_guidance.data.scenes.styles import OUTLINED, STYLES, Layers
from dreamsim_guidance.types import Image, Mask

__all__ = ["draw", "draw_with_mask", "picture_grid"]

_OVERSAMPLING = 4


Streams = Callable[[str], np.random.Generator]
"""The random numbers of a part of the picture, by the part's name."""


def draw(scene: Scene, size: int = 64) -> Image:
    """Return the picture of a scene, `(1, 3, size, size)` float32 in [0, 1]; the same scene gives the same picture.

    The scene's seed decides what the factors leave open: the position of the camera (shifted by up to 4 % of the picture, 5 %
    nearer or further), the exposure, the jitter of the objects, the phases of the patterns, and the grain.
    """
    return draw_with_mask(scene, size)[0]


def draw_with_mask(scene: Scene, size: int = 64, apart: bool = False) -> tuple[Image, Mask]:
    """Return the picture of a scene, as `draw` does, and the share of each pixel that objects cover, `(1, 1, size, size)`, with
    their outlines where the style draws them.

    apart: draw the camera, the objects, the light, the patterns and the grain from random numbers of their own, so that a
        change of one factor leaves all else as it is. By default, as in `draw`, all come from one stream, in which a further
        object also moves the patterns behind it.
    """
    shared = np.random.default_rng(scene.seed)
    streams: Streams = (
        (lambda part: np.random.default_rng([scene.seed, *part.encode()])) if apart else (lambda _: shared)
    )
    homography = _camera(streams("camera")) @ _homography(scene.perspective)
    u, v = _plane(homography, size)
    body, edge = _masks(scene, homography, size, streams)
    colour, ground = _rgb(scene.colour), _rgb(scene.background_colour)
    rng = streams("light")
    light = rng.uniform(0, 2 * math.pi)
    exposure = rng.uniform(0.9, 1.1)
    ground = background(scene.background, ground, u, v, streams("background"))
    surface = texture(scene.texture, colour, u, v, streams("texture"))
    picture = STYLES[scene.style](Layers(ground, surface, body, edge, colour, light, streams("grain")))
    pixels = np.clip(exposure * picture, 0, 1).astype(np.float32).transpose(2, 0, 1)
    covered = np.maximum(body, edge) if scene.style in OUTLINED else body
    covered = covered.astype(np.float32).transpose(2, 0, 1)
    image, mask = (torch.from_numpy(np.ascontiguousarray(x)).unsqueeze(0) for x in (pixels, covered))
    return image, mask


def picture_grid(images: Sequence[Image] | Image, columns: int = 8, gap: int = 2) -> Float[Tensor, "1 3 rows columns"]:
    """Put pictures of one size, `(b, 3, h, w)` or a list of such batches, on one white sheet, row by row."""
    stack = images if isinstance(images, Tensor) else torch.cat(list(images))
    return make_grid(stack, columns, gap, pad_value=1.0).unsqueeze(0)


def _camera(rng: np.random.Generator) -> np.ndarray:
    zoom, (dx, dy) = rng.uniform(0.95, 1.05), rng.uniform(-0.08, 0.08, 2)
    return np.array([[zoom, 0.0, dx], [0.0, zoom, dy], [0.0, 0.0, 1.0]])


def _homography(perspective: tuple[float, float]) -> np.ndarray:
    turn, tip = perspective
    return np.array(
        [[1 - 0.3 * abs(turn), 0.1 * turn * tip, 0.0], [0.0, 1 - 0.3 * abs(tip), 0.0], [0.28 * turn, 0.28 * tip, 1.0]]
    )


def _project(points: np.ndarray, homography: np.ndarray) -> np.ndarray:
    projected = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return projected[:, :2] / projected[:, 2:]


def _plane(homography: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of each pixel in the plane of the scene."""
    x, y = grid(size)
    m = np.linalg.inv(homography).astype(np.float32)
    depth = np.maximum(m[2, 0] * x + m[2, 1] * y + m[2, 2], 0.2)
    return (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth


def _masks(scene: Scene, homography: np.ndarray, size: int, streams: Streams) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the objects and of their outlines, `(size, size, 1)` in [0, 1]."""
    big = size * _OVERSAMPLING
    body, edge = PILImage.new("L", (big, big)), PILImage.new("L", (big, big))
    draw_body, draw_edge = ImageDraw.Draw(body), ImageDraw.Draw(edge)
    radius = 0.6 * scene.scale / scene.count**0.42
    places, rng = _places(scene.layout, scene.count, streams), streams("objects")
    for place in places:
        angle = 2 * math.pi * (scene.rotation + rng.uniform(-0.015, 0.015))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        grown = radius * rng.uniform(0.95, 1.05)
        for points, hole in _outlines(scene.shape):
            corners = (_project(grown * points @ turn.T + place, homography) + 1) * (big / 2)
            path = [(float(x), float(y)) for x, y in corners]
            draw_body.polygon(path, fill=0 if hole else 255)
            draw_edge.polygon(path, fill=0)
            draw_edge.line(path + path[:2], fill=255, width=max(1, round(0.03 * big)))
    masks = [np.asarray(m.reduce(_OVERSAMPLING), np.float32)[..., None] / 255 for m in (body, edge)]
    return masks[0], masks[1]


def _places(layout: str, count: int, streams: Streams) -> np.ndarray:
    """Centres of the objects in the plane; a single object stands where its layout begins."""
    t = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    if layout == "row":
        places = np.column_stack([0.72 * t, np.full(count, 0.35)])
    elif layout == "column":
        places = np.column_stack([np.full(count, -0.35), 0.72 * t])
    elif layout == "diagonal":
        t = t if count > 1 else np.ones(1)
        places = np.column_stack([0.65 * t, -0.65 * t])
    elif layout == "ring":
        angle = 2 * math.pi * np.arange(count) / count - math.pi / 2
        places = 0.58 * np.column_stack([np.cos(angle), np.sin(angle)])
    elif layout == "grid":
        columns = math.ceil(math.sqrt(count))
        rows = math.ceil(count / columns)
        index = np.arange(count)
        places = 0.8 * np.column_stack([index % columns - (columns - 1) / 2, index // columns - (rows - 1) / 2])
    else:
        places = _scattered(count, streams("scattered"))
    return places + streams("places").uniform(-0.05, 0.05, (count, 2))


def _scattered(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random places; each is the candidate that is furthest from the places before it."""
    places = rng.uniform(-0.7, 0.7, (1, 2))
    for _ in range(count - 1):
        candidates = rng.uniform(-0.72, 0.72, (8, 2))
        nearest = np.linalg.norm(candidates[:, None] - places[None], axis=-1).min(1)
        places = np.vstack([places, candidates[nearest.argmax()]])
    return places


@lru_cache(maxsize=32)
def _outlines(shape: str) -> tuple[tuple[np.ndarray, bool], ...]:
    """Closed polygons around the origin, with y pointing down and a radius of about 1; True marks a hole."""
    full = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if shape == "circle":
        return ((0.9 * _polar(full, 1.0), False),)
    if shape == "ring":
        return ((0.95 * _polar(full, 1.0), False), (0.5 * _polar(full, 1.0), True))
    if shape == "flower":
        return ((_polar(full, 0.72 + 0.26 * np.cos(6 * full)), False), (0.24 * _polar(full, 1.0), True))
    if shape == "star":
        spikes = np.arange(10) * np.pi / 5 - np.pi / 2
        return ((_polar(spikes, np.where(np.arange(10) % 2, 0.42, 1.05)), False),)
    sides = {"square": 4, "triangle": 3, "hexagon": 6}
    if shape in sides:
        turn = -np.pi / 4 if shape == "square" else -np.pi / 2
        return ((1.05 * _polar(2 * np.pi * np.arange(sides[shape]) / sides[shape] + turn, 1.0), False),)
    if shape == "heart":
        x = 16 * np.sin(full) ** 3
        y = -(13 * np.cos(full) - 5 * np.cos(2 * full) - 2 * np.cos(3 * full) - np.cos(4 * full))
        return ((np.column_stack([x, y]) / 16.5, False),)
    if shape == "moon":
        outer, inner = np.linspace(0.9, 2 * np.pi - 0.9, 28), np.linspace(2 * np.pi - 1.25, 1.25, 28)
        return ((np.vstack([_polar(outer, 1.0), _polar(inner, 0.82) + np.array([0.36, 0.0])]), False),)
    corners = {
        "cross": "-.3 -1 .3 -1 .3 -.3 1 -.3 1 .3 .3 .3 .3 1 -.3 1 -.3 .3 -1 .3 -1 -.3 -.3 -.3",
        "arrow": "0 -1.1 .8 -.2 .3 -.2 .3 1 -.3 1 -.3 -.2 -.8 -.2",
        "house": "0 -1.1 1 -.25 .75 -.25 .75 .85 -.75 .85 -.75 -.25 -1 -.25",
    }
    return ((np.array(corners[shape].split(), float).reshape(-1, 2), False),)


def _polar(angle: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def _rgb(colour: tuple[float, float, float]) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(*colour), np.float32)
