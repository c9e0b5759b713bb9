"""Weights of a Vision Transformer in the format of Hugging Face's transformers (`ViTModel`), under timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["with_timm_names"]

_NAMES = (
    (r"^(vit|dino)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
_ATTENTION = re.compile(r"(blocks\.\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def with_timm_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names if they are those of a `ViTModel`, else as they are.

    The matrices of query, key and value become one; a pooler behind the class token, which timm lacks, is left out.
    """
    if not any(name.endswith("embeddings.cls_token") for name in tensors):
        return dict(tensors)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        if not name.startswith("pooler."):
            renamed[name] = tensor
    for block, part in dict.fromkeys((m[1], m[3]) for m in map(_ATTENTION.fullmatch, renamed) if m):
        rows = [renamed.pop(f"{block}.attention.attention.{which}.{part}") for which in ("query", "key", "value")]
        renamed[f"{block}.attn.qkv.{part}"] = torch.cat(rows)
    return renamed
