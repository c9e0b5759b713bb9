"""The fingerprint of a metric: a checksum of its weights and of the way images reach them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch

from dreamsim_guidance.metric.adapter_targets import is_adapted
from dreamsim_guidance.metric.adapters import adapter_names
from dreamsim_guidance.metric.dreamsim import DreamSim

__all__ = ["fingerprint"]


def fingerprint(metric: DreamSim, settings: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits that identify the weights, the active adapter, the branches' preprocessing, and `settings`.

    settings: what else decides about the embeddings, such as the reading of files; values that JSON has.
    """
    described = {
        "branches": [asdict(config) for config in metric.ensemble.configs],
        "normalize_embeds": metric.normalize_embeds,
        **settings,
    }
    if adapter_names(metric.ensemble):
        described["adapter"] = _active_adapter(metric)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(metric.state_dict().items()):
        stored = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {stored.dtype} {tuple(stored.shape)}".encode())
        digest.update(stored.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _active_adapter(metric: DreamSim) -> list[Any] | None:
    """Name, rank and alpha of the active adapter, which the weights do not tell; None for the un-tuned ensemble."""
    layers: list[Any] = [module for module in metric.ensemble.modules() if is_adapted(module)]
    name = metric.adapter_state[1]
    if layers:  # of towers that run as one network there are none
        name = None if layers[0].disable_adapters else layers[0].active_adapters[0]
    if name is None:
        return None
    config = cast("dict[str, Any]", metric.ensemble.peft_config)[name]
    return [name, config.r, config.lora_alpha]
