"""Build the tower of a branch by timm or open_clip, and fill it with weights from a file, a package or the Hub."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import timm
from torch import nn

from dreamsim_guidance.metric import vit
from dreamsim_guidance.metric.base_weights import FILE_NAMES, cached_weights, default_tag, tagged_weights
from dreamsim_guidance.metric.branch_config import BranchConfig
from dreamsim_guidance.metric.tower_weights import TowerWeights, in_order, read_tensors
from dreamsim_guidance.metric.transformers_vit import with_timm_names

__all__ = ["build_tower", "with_weights"]


def with_weights(config: BranchConfig) -> tuple[BranchConfig, Path | None]:
    """The config with its weights' checksum, licence and source, and their file; no file where timm or open_clip fetch it."""
    if config.weights is not None:
        path, weights = cast(TowerWeights, config.weights).find(FILE_NAMES[config.source])
        return replace(config, weights=weights), path
    config = config if config.tag is not None else replace(config, tag=default_tag(config))
    published = tagged_weights(config)
    return (config, None) if published is None else (replace(config, tag=None, weights=published[1]), published[0])


def build_tower(
    config: BranchConfig, pretrained: bool, file: Path | None
) -> tuple[BranchConfig, nn.Module, nn.Parameter | None]:
    """The config with the defaults that depend on the tower, the tower, and the output projection `(d, p)` if it has one.

    file: holds the weights; without one, `pretrained` lets timm or open_clip fetch those of `config.tag`.

    Raises ValueError for an unknown architecture, for a feature or a layer that it does not have, and for weights of another
    tower.
    """
    projection = None
    if config.source == "open_clip":
        model = _build_open_clip(config, pretrained, file)
        config = replace(config, feature="pooled")
    else:
        model, projection = _build_timm(config, pretrained, file)
        config = _resolved(config, model)
    if pretrained and file is None and (fetched := cached_weights(config)) is not None:
        config = replace(config, tag=None, weights=fetched[1])
    return config, model, projection


def _build_timm(config: BranchConfig, pretrained: bool, file: Path | None) -> tuple[nn.Module, nn.Parameter | None]:
    options: dict[str, Any] = {"num_classes": config.projection or 0, "img_size": config.image_size, **config.overrides}
    weights = cast("TowerWeights | None", config.weights)
    by_order = weights is not None and weights.by == "order"
    name = config.architecture if config.tag is None or not pretrained else f"{config.architecture}.{config.tag}"
    if file is not None and not by_order:
        options["pretrained_cfg_overlay"] = _overlay(config, file)
    try:
        model: Any = _create_timm(name, pretrained and not by_order, options)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise ValueError(
                f"branch '{config.name}': timm has no model '{config.architecture}'; "
                f"timm.list_models('*{config.architecture.split('_')[0]}*') lists its names."
            ) from error
        if file is None:
            raise
        raise ValueError(
            f"branch '{config.name}': '{file}' does not hold the weights of '{config.architecture}' "
            f"({' '.join(str(error).split())[:400]})."
        ) from error
    if file is not None and by_order:
        model.load_state_dict(in_order(read_tensors(file), model, file))
    _check_feature(config, model)
    projection = None
    if config.projection is not None:
        # timm keeps CLIP's output projection as a classifier; here it is a matrix (d, p), as in the original's files
        projection = nn.Parameter(model.head.weight.detach().T.contiguous())
        model.reset_classifier(0)
    return model, projection


def _overlay(config: BranchConfig, file: Path) -> dict[str, Any]:
    """Let timm convert and load the tensors in a file, all of them but a classifier that the tower does not have."""
    tensors = with_timm_names(read_tensors(file))
    published = timm.get_pretrained_cfg(config.architecture, allow_unregistered=True)
    classifier = None if published is None or config.projection is not None else published.classifier
    for name in (classifier,) if isinstance(classifier, str) else classifier or ():
        for part in ("weight", "bias"):
            tensors.pop(f"{name}.{part}", None)
    if "depth" in config.overrides:  # a Vision Transformer that is cut short has the first blocks of the whole one
        kept = {f"blocks.{number}" for number in range(config.overrides["depth"])}
        tensors = {k: t for k, t in tensors.items() if k[:7] != "blocks." or k[: k.index(".", 7)] in kept}
    return {
        "state_dict": tensors,
        "custom_load": False,
        "num_classes": config.projection or 0,  # equal to the tower's: timm then insists on every tensor
        "label_offset": 0,
    }


def _create_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """The model at the wanted size, if its constructor takes one: convolutional networks take images of any size."""
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    del options["img_size"]
    return timm.create_model(name, pretrained=pretrained, **options)


def _check_feature(config: BranchConfig, model: Any) -> None:
    if config.feature in ("cls", "cls_patch", "last_layer", "embedding") and not _has_class_token(model):
        raise ValueError(
            f"branch '{config.name}': '{config.architecture}' has no class token, so feature='{config.feature}' cannot be "
            "read; use feature='pooled'."
        )
    if config.feature in ("cls", "cls_patch") and not _returns_tokens(model):
        raise ValueError(
            f"branch '{config.name}': timm does not return the tokens of '{config.architecture}', so "
            f"feature='{config.feature}' cannot be read; use feature='last_layer' or feature='pooled'."
        )
    if config.reads_layers and not hasattr(model, "forward_intermediates"):
        raise ValueError(
            f"branch '{config.name}': timm does not return the layers of '{config.architecture}'; leave out layers and "
            "spatial, or choose a tower with forward_intermediates."
        )


def _returns_tokens(model: Any) -> bool:
    method = getattr(model, "forward_intermediates", None)
    tokens = method is not None and "return_prefix_tokens" in inspect.signature(method).parameters
    return vit.is_plain(model) or (_has_class_token(model) and tokens)


def _has_class_token(model: Any) -> bool:
    """Whether the first token is a class token. Registers are prefix tokens too, and some towers have no others."""
    embedding = getattr(model, "embeds", model)  # NaFlex towers keep their tokens there
    return bool(getattr(model, "num_prefix_tokens", 0)) and getattr(embedding, "cls_token", None) is not None


def _resolved(config: BranchConfig, model: Any) -> BranchConfig:
    """The config with the defaults that depend on the tower: the feature, and the layers, counted from 0."""
    feature = config.feature
    if feature is None:
        token = _returns_tokens(model) and not config.spatial
        feature = "embedding" if config.projection is not None else "cls" if token else "pooled"
    layers = config.layers
    if config.reads_layers:
        count = len(model.feature_info)
        chosen = (-1,) if layers is None else layers
        if not all(-count <= layer < count for layer in chosen):
            raise ValueError(
                f"branch '{config.name}': '{config.architecture}' has the layers 0 to {count - 1}, got {chosen}."
            )
        layers = tuple(layer % count for layer in chosen)
    return replace(config, feature=feature, layers=layers)


def _build_open_clip(config: BranchConfig, pretrained: bool, file: Path | None) -> nn.Module:
    import open_clip  # slow: imports transformers

    if config.architecture not in open_clip.list_models():
        raise ValueError(
            f"branch '{config.name}': open_clip has no model '{config.architecture}'; open_clip.list_models() lists its names."
        )
    weights = None
    if pretrained:
        weights = config.tag if file is None else os.fspath(file)
    model = open_clip.create_model(
        config.architecture,
        pretrained=weights,
        force_image_size=config.image_size,
        **config.overrides,
    )
    return cast(nn.Module, model.visual)
