"""A small convolutional network that reads the factors of a scene from its picture.

It is the independent judge of guided samples: it is no transformer and was not trained on the pocket ensemble's pictures. Its
penultimate features serve for the Frechet distance between what a model draws and what it was asked to draw. Continuous
factors are read as classes: a colour is grey or one of six hues, a scale is small, medium or large.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.scene import BACKGROUNDS, COUNTS, HSV, LAYOUTS, SHAPES, STYLES, TEXTURES, Scene
from dreamsim_guidance.types import Image

__all__ = ["JUDGED", "SceneJudge", "factor_classes", "load_judge", "read_judge"]

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")
SIZES = ("small", "medium", "large")

JUDGED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "shape": SHAPES,
        "colour": ("grey", *HUES),
        "count": tuple(str(count) for count in range(COUNTS[0], COUNTS[1] + 1)),
        "layout": LAYOUTS,
        "scale": SIZES,
        "background": BACKGROUNDS,
        "background_colour": ("grey", *HUES),
        "texture": TEXTURES,
        "style": STYLES,
    }
)
"""Each factor that the judge reads, with its classes."""


class SceneJudge(nn.Module):
    """Reads pictures in [0, 1] of any size, resized to 32 x 32.

    readable: the factors that count, those in which the judge is clearly better than always answering the commonest class.
    """

    size = 32

    def __init__(self, width: int = 24, features: int = 128, readable: Sequence[str] = tuple(JUDGED)) -> None:
        super().__init__()
        if unknown := [name for name in readable if name not in JUDGED]:
            raise ValueError(f"unknown factor '{unknown[0]}'; known: {', '.join(JUDGED)}.")
        self.width, self.readable = width, tuple(readable)
        wide = (width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width)
        strides = (1, 2, 1, 2, 1, 2)
        layers: list[nn.Module] = []
        for before, after, stride in zip((3, *wide), wide, strides, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(4, after), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers)
        self.summary = nn.Linear(wide[-1] * (self.size // 8) ** 2, features)
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(classes)) for name, classes in JUDGED.items()})

    def features(self, images: Image) -> Float[Tensor, "b d"]:
        """Return the penultimate features."""
        if images.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return F.silu(self.summary(self.convolutions(2 * images - 1).flatten(1)))

    def forward(self, images: Image) -> dict[str, Tensor]:
        """Return the logits of each factor's classes, `(b, classes)`."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}

    def read(self, images: Image) -> dict[str, Int[Tensor, " b"]]:
        """Return the class of each readable factor, as a number into `JUDGED[factor]`."""
        answers = self(images)
        return {name: answers[name].argmax(1) for name in self.readable}


def factor_classes(scenes: Sequence[Scene]) -> dict[str, Int[Tensor, " b"]]:
    """Return the class of each factor of each scene, as a number into `JUDGED[factor]`."""
    return {
        name: torch.tensor([classes.index(_CLASS[name](scene)) for scene in scenes]) for name, classes in JUDGED.items()
    }


def _hue(colour: HSV) -> str:
    hue, saturation, _ = colour
    return "grey" if saturation < 0.2 else HUES[round(hue * len(HUES)) % len(HUES)]


def _size(scale: float) -> str:
    return SIZES[0 if scale < 0.85 else 1 if scale < 1.05 else 2]


_CLASS: Mapping[str, Callable[[Scene], str]] = {
    "shape": lambda scene: scene.shape,
    "colour": lambda scene: _hue(scene.colour),
    "count": lambda scene: str(scene.count),
    "layout": lambda scene: scene.layout,
    "scale": lambda scene: _size(scene.scale),
    "background": lambda scene: scene.background,
    "background_colour": lambda scene: _hue(scene.background_colour),
    "texture": lambda scene: scene.texture,
    "style": lambda scene: scene.style,
}


def load_judge() -> SceneJudge:
    """Load the independent judge of scenes that ships with the package, frozen, in float32 on the CPU."""
    with as_file(files("dreamsim_guidance.weights") / "pocket_judge.safetensors") as file:
        return read_judge(file)


def read_judge(path: Path) -> SceneJudge:
    """Load a judge from a file that the recipe train-pocket-judge wrote."""
    with safe_open(path, framework="pt", device="cpu") as file:
        card = json.loads(file.metadata()["card"])
        names = list(file.keys())
        weights = {name: file.get_tensor(name).float() for name in names}
    judge = SceneJudge(card["width"], card["features"], card["readable"])
    judge.load_state_dict(weights, assign=True)  # in float32, whatever the default dtype is
    return judge.requires_grad_(False).eval()
