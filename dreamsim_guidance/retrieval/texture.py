"""A texture network: Gram matrices of the early layers of a real network, as one unit vector for each picture.

    G_l = mean_p u_lp u_lp^T,     u_lp the unit vector of layer l's channels at position p

It says how often which local patterns occur together, wherever they are in the picture: a description of texture without
layout or objects. The vector joins the matrices of all layers, each scaled to the same length, so that half the squared chord
between two vectors is a distance, as for embeddings.

The layers are the first two stages of EfficientNet-Lite 0 where the extra `photographs` is installed, otherwise the first two
blocks of each tower of the pocket ensemble.

Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, NeurIPS 2015 (Gram matrices as textures).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from dreamsim_guidance.data.pictures import load_pictures
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS, default_metric
from dreamsim_guidance.types import Image, Map

__all__ = ["gram_vectors", "texture_branches", "texture_vectors"]

_LAYERS = (0, 1)


def texture_branches(device: str = "cpu") -> tuple[str, list[Branch]]:
    """Return the name of the texture network and its branches, whose `maps` are read."""
    if default_metric() == "photographs":
        config = replace(PHOTOGRAPHS["photographs"][0], layers=_LAYERS, spatial=True)
        branches = [Branch(config, pretrained=True)]
        name = "EfficientNet-Lite 0, stages 1 and 2"
    else:
        branches = [_early(branch) for branch in DreamSim("pocket", device="cpu").ensemble.branches]
        name = "pocket towers, blocks 1 and 2"
    return name, [branch.to(device).eval().requires_grad_(False) for branch in branches]


def texture_vectors(files: Sequence[Path], branches: Sequence[Branch], batch: int = 32) -> NDArray[np.float32]:
    """Return the unit vectors of picture files, `(n, d)`. Raises ValueError or FileNotFoundError for unreadable files."""
    size = max(branch.config.image_size for branch in branches)
    device = next(branches[0].parameters()).device
    rows = []
    for pictures in load_pictures(files, size, batch=batch):
        with torch.inference_mode():
            rows.append(gram_vectors(pictures.to(device).float() / 255, branches).cpu().numpy())
    return np.concatenate(rows)


def gram_vectors(images: Image, branches: Sequence[Branch]) -> Float[Tensor, "b d"]:
    """Return the unit vectors of images `(b, 3, h, w)` in [0, 1], which each branch resizes to its own square."""
    grams = []
    for branch in branches:
        side = branch.config.image_size
        resized = F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        grams += [_gram(x) for x in branch.maps(resized)]
    return torch.cat(grams, 1) / len(grams) ** 0.5


def _early(branch: Branch) -> Branch:
    """A branch with the same weights whose maps are those of its first blocks."""
    config = replace(branch.config, layers=_LAYERS, spatial=True, feature=None, projection=None)
    early = Branch(config)
    early.backbone.load_state_dict(branch.backbone.state_dict())
    return early


def _gram(x: Map) -> Float[Tensor, "b d"]:
    columns = x.flatten(2)
    matrix = columns @ columns.mT
    return F.normalize(matrix.flatten(1), dim=1)
