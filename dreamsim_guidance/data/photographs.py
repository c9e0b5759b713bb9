"""The photographs that scikit-image installs: real pictures without a download.

Only installed files are used, never `skimage.data`'s downloads. Two photographs are excluded from every training, so that real
pictures remain for evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.preprocess import load_image
from dreamsim_guidance.types import Image
from dreamsim_guidance.views import random_crop

__all__ = [
    "HELD_OUT",
    "PHOTOGRAPHS",
    "Photographs",
    "installed_photographs",
    "photograph",
    "photograph_file",
    "random_crop",
    "training_photographs",
]

PHOTOGRAPHS: Mapping[str, str] = MappingProxyType(
    {
        "astronaut": "astronaut.png",
        "brick": "brick.png",
        "chelsea": "chelsea.png",
        "coffee": "coffee.png",
        "coins": "coins.png",
        "grass": "grass.png",
        "gravel": "gravel.png",
        "hubble": "hubble_deep_field.jpg",
        "motorcycle": "motorcycle_left.png",
        "rocket": "rocket.jpg",
        "tissue": "ihc.png",
    }
)
"""Names and files of the bundled photographs; a version of scikit-image may lack some."""

Photographs = dict[str, Float[Tensor, "1 3 _ _"]]
"""Pictures of any size by name."""

HELD_OUT = ("astronaut", "chelsea")
"""Photographs that are never used in training."""


def photograph(name: str) -> Image:
    """Return a bundled photograph, `(1, 3, h, w)` in [0, 1]. Raises ValueError if there is none of that name."""
    return load_image(photograph_file(name))


def photograph_file(name: str) -> Path:
    """Return the file of a bundled photograph. Raises ValueError if there is none of that name."""
    path = _folder() / PHOTOGRAPHS.get(name, "")
    if not path.is_file():
        raise ValueError(f"no photograph '{name}' is installed; there are: {', '.join(installed_photographs())}.")
    return path


def training_photographs(shorter: int = 160) -> Photographs:
    """Return all installed photographs except the held-out ones, resized to `shorter` pixels on the shorter side."""
    photographs = {}
    for name in installed_photographs():
        if name not in HELD_OUT:
            image = photograph(name)
            scale = shorter / min(image.shape[-2:])
            photographs[name] = F.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True).clamp(0, 1)
    return photographs


def _folder() -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError("scikit-image is not installed; pip install scikit-image.")
    return Path(spec.origin).parent / "data"


def installed_photographs() -> list[str]:
    """The names of the photographs that are installed."""
    return [name for name, file in PHOTOGRAPHS.items() if (_folder() / file).is_file()]
