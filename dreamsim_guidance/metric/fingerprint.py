"""The fingerprint of a metric: a checksum of its weights and of the way images reach them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["fingerprint"]


def fingerprint(metric: DreamSim, settings: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that identify the weights, the branches' preprocessing, and `settings`.

    settings: what else decides about the embeddings, such as the reading of files; values that JSON has.
    """
    described = {
        "branches": [asdict(config) for config in metric.ensemble.configs],
        "normalize_embeds": metric.normalize_embeds,
        **settings,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(metric.state_dict().items()):
        stored = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {stored.dtype} {tuple(stored.shape)}".encode())
        digest.update(stored.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
