"""Published base weights by their tag, and files on the Hugging Face Hub, or in its cache where the Hub cannot be asked.

timm and open_clip always ask the Hub first, and without a network they try each file again for a minute or more. Here the
file is looked up in the cache, and handed to them as a local file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dreamsim_guidance.files.network import hub_available, is_offline
from dreamsim_guidance.metric.tower_weights import TowerWeights

if TYPE_CHECKING:
    from dreamsim_guidance.metric.branch_config import BranchConfig

__all__ = ["FILE_NAMES", "cached_weights", "default_tag", "hub_file", "tagged_weights"]

FILE_NAMES = {
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
"""Names that the file with the weights may have in a repository."""


def default_tag(config: BranchConfig) -> str:
    """The tag of the weights that timm loads by default for a branch that names none.

    Raises ValueError where there are none.
    """
    tag = ""
    if config.source == "timm" and config.projection is None:  # timm's default for CLIP's towers is a classifier
        import timm

        default = timm.get_pretrained_cfg(config.architecture, allow_unregistered=True)
        if default is not None and default.has_weights:
            tag = default.tag or ""
    if not tag:
        raise ValueError(
            f"branch '{config.name}' names no base weights, and there are no default ones; give weights=... (a file, a file in "
            f"an installed package, or a repository), or tag='...' (timm.list_pretrained('{config.architecture}*') or "
            "open_clip.list_pretrained() list them), or use pretrained=False for random weights."
        )
    return tag


def tagged_weights(config: BranchConfig) -> tuple[Path, TowerWeights] | None:
    """The file with the weights of `config.tag` in the Hub's cache, and its record; None where timm or open_clip can fetch it.

    Raises FileNotFoundError, within seconds, if the Hub cannot be used and its cache does not hold the file.
    """
    repository, files, _ = _on_the_hub(config)
    if repository is None or hub_available():
        return None
    hub_file(repository, files, f"branch '{config.name}' needs the weights {config.architecture}.{config.tag}")
    return cached_weights(config)


def cached_weights(config: BranchConfig) -> tuple[Path, TowerWeights] | None:
    """The file with the weights of `config.tag` in the Hub's cache, and its record; None for weights from elsewhere."""
    from huggingface_hub import try_to_load_from_cache

    repository, files, licence = _on_the_hub(config)
    for file in files if repository is not None else ():
        if isinstance(path := try_to_load_from_cache(str(repository), file), str):
            page = f"https://huggingface.co/{repository}"
            return TowerWeights(f"hf-hub:{repository}/{file}", licence=licence, source=page).found(Path(path))
    return None


def hub_file(repository: str, files: tuple[str, ...], needed: str) -> Path:
    """The first of `files` that a repository of the Hub has, downloaded into the Hub's cache, or from the cache alone.

    needed: beginning of the message, what is needed by whom.

    Raises FileNotFoundError if the repository has none of them, or, within seconds, if the Hub cannot be used and its cache
    has none.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    if hub_available():
        for file in files:
            try:
                return Path(hf_hub_download(repository, file))
            except EntryNotFoundError:
                continue
            except RepositoryNotFoundError as error:
                raise FileNotFoundError(f"{needed}, and the Hub has no repository '{repository}'.") from error
        raise FileNotFoundError(f"{needed}, and the repository '{repository}' has no file {' or '.join(files)}.")
    for file in files:
        if isinstance(path := try_to_load_from_cache(repository, file), str):
            return Path(path)
    host = urlsplit(constants.ENDPOINT).hostname
    reason = "downloading is off" if is_offline() else f"{host} cannot be reached"
    raise FileNotFoundError(
        f"{needed}, which are not in {constants.HF_HUB_CACHE} ({reason}); run it once where there is a connection and copy "
        "that folder here."
    )


def _on_the_hub(config: BranchConfig) -> tuple[str | None, tuple[str, ...], str | None]:
    """The repository of a tag on the Hub, the names that its file may have there, and its licence where that is known.

    No repository for weights from elsewhere.
    """
    if config.source == "timm":
        import timm

        published: Any = timm.get_pretrained_cfg(f"{config.architecture}.{config.tag}", allow_unregistered=True)
        if published is None or not published.hf_hub_id:
            return None, (), None
        names = (published.hf_hub_filename,) if published.hf_hub_filename else FILE_NAMES["timm"]
        return published.hf_hub_id, names, published.license
    import open_clip

    place = (open_clip.get_pretrained_cfg(config.architecture, config.tag or "") or {}).get("hf_hub", "")
    repository, name = os.path.split(place)
    return repository or None, (name,) if name else FILE_NAMES["open_clip"], None
