"""Find a tower's published base weights in huggingface_hub's cache where the Hub cannot be asked.

timm and open_clip always ask the Hub first, and without a network they try each file again for a minute or more. Here the
file is looked up in the cache, and handed to them as a local file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dreamsim_guidance.files.network import hub_available, is_offline

if TYPE_CHECKING:
    from dreamsim_guidance.metric.backbones import BranchConfig

__all__ = ["cached_weights"]

_FILES = {
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}


def cached_weights(config: BranchConfig) -> Path | None:
    """The cached file with the base weights of `config.tag`, or None where timm or open_clip can load them as usual.

    Raises FileNotFoundError, within seconds, if the Hub cannot be used and its cache does not hold the file.
    """
    repository, files = _on_the_hub(config)
    if repository is None or hub_available():
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    for file in files:
        if isinstance(path := try_to_load_from_cache(repository, file), str):
            return Path(path)
    host = urlsplit(constants.ENDPOINT).hostname
    reason = "downloading is off" if is_offline() else f"{host} cannot be reached"
    raise FileNotFoundError(
        f"branch '{config.name}' needs the weights {config.architecture}.{config.tag}, which are not in "
        f"{constants.HF_HUB_CACHE} ({reason}); run it once where there is a connection and copy that folder here."
    )


def _on_the_hub(config: BranchConfig) -> tuple[str | None, tuple[str, ...]]:
    """The Hub's repository of a tag, and the names that its file may have there; None for weights from elsewhere."""
    if config.source == "timm":
        import timm

        published = timm.get_pretrained_cfg(f"{config.architecture}.{config.tag}", allow_unregistered=True)
        if published is None or not published.hf_hub_id:
            return None, ()
        return published.hf_hub_id, (published.hf_hub_filename,) if published.hf_hub_filename else _FILES["timm"]
    import open_clip

    place = (open_clip.get_pretrained_cfg(config.architecture, config.tag or "") or {}).get("hf_hub", "")
    repository, name = os.path.split(place)
    return repository or None, (name,) if name else _FILES["open_clip"]
