"""Where the towers of a DreamSim look: attention of Vision Transformers, distances of maps for convolutional towers.

    rollout          A_l' = (mean over heads of A_l + I) / 2, rows of A_L' ... A_1': how far each patch reaches the class token
                     through all blocks
    last attention   the class token's attention to the patches in the last block, mean over heads
    last map         convolutional towers: at each position of the last layer, half the squared chord between the unit vectors
                     of the two pictures

Abnar and Zuidema, Quantifying attention flow in transformers, ACL 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.metric import vit
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.distance import half_chord, unit
from dreamsim_guidance.types import Image

__all__ = ["class_attention", "last_map_distance"]


@torch.no_grad()
def class_attention(branch: Branch, images: Image) -> dict[str, Float[Tensor, "b rows columns"]]:
    """Return the maps "rollout" and "last attention" of images `(b, 3, h, w)` at the tower's size; each map sums to one.

    Raises ValueError for towers other than plain Vision Transformers, whose attention is computed elsewhere.
    """
    if not branch.plain:
        raise ValueError(f"the tower {branch.config.name} is not a plain Vision Transformer with a class token.")
    side = branch.backbone.patch_embed.patch_size[0]
    grid = (images.shape[-2] // side, images.shape[-1] // side)
    flow, last = None, None
    for last in _attentions(branch, images):
        step = (last + torch.eye(last.shape[-1], dtype=last.dtype, device=last.device)) / 2
        flow = step if flow is None else step @ flow
    assert flow is not None and last is not None  # a transformer has blocks
    return {name: _patches(x, grid) for name, x in (("rollout", flow), ("last attention", last))}


@torch.no_grad()
def last_map_distance(branch: Branch, x: Image, y: Image) -> Float[Tensor, "b rows columns"]:
    """Return the distance of two batches of images at each position of a convolutional tower's last layer, in [0, 2].

    Raises ValueError for towers without such a map.
    """
    a, b = (unit(vit.stream(branch.last_map(images)), 1).movedim(1, -1) for images in (x, y))
    return half_chord(a, b)


def _attentions(branch: Branch, images: Image) -> Iterator[Float[Tensor, "b n n"]]:
    """The attention of each block, mean over heads."""
    model: Any = branch.backbone
    (x,) = vit.embed_patches([model], images, [(branch.mean, branch.std)], hasattr(model.blocks[0].ls1, "gamma"))
    inputs = [x]
    if len(model.blocks) > 1:
        inputs += vit.layer_tokens(model, images, branch.mean, branch.std, range(len(model.blocks) - 1))
    for block, tokens in zip(model.blocks, inputs, strict=True):
        attn = block.attn
        y = vit.norm(block.norm1, tokens).to(next(block.parameters()).dtype)
        q, k, _ = attn.qkv(y).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        yield vit.stream(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).mean(1)


def _patches(matrix: Tensor, grid: tuple[int, int]) -> Tensor:
    """The class token's row without itself, as a map that sums to one."""
    row = matrix[:, 0, 1:]
    return (row / row.sum(1, keepdim=True)).unflatten(1, grid)
