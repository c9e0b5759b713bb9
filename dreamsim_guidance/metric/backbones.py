"""One branch of the metric: a vision tower, the token that is read from it, and its normalisation of colours.

A branch is described by a `BranchConfig`, plain data that can be written to a file, and built by timm or open_clip.
Any of their towers can be used; `variants.py` lists those of the published metric.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import timm
import torch
from torch import Tensor, nn

from dreamsim_guidance.metric import vit
from dreamsim_guidance.metric.base_weights import cached_weights
from dreamsim_guidance.metric.low_rank import Names
from dreamsim_guidance.types import Image

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "Branch", "BranchConfig", "Feature"]

Feature = Literal["cls", "embedding", "last_layer", "cls_patch", "pooled"]
"""What is read from a tower.

cls: the class token before the final norm.
last_layer: the class token after the final norm.
embedding: the class token after the final norm, times the output projection (CLIP).
cls_patch: class and patch tokens before the final norm.
pooled: what the tower itself returns as its image feature.
"""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class BranchConfig:
    """A vision tower and how its feature is read.

    name: of the branch, for messages and cards.
    architecture: a model of timm or open_clip (`source`).
    feature: see `Feature`.
    image_size: side of the square that the tower sees, in pixels.
    mean, std: normalisation of R, G, B in [0, 1].
    projection: width of the output projection that `feature="embedding"` needs.
    overrides: further keyword arguments of the tower's constructor.
    tag: published base weights, used by `Branch(config, pretrained=True)` only.

    Raises ValueError or TypeError for values that no tower can have, and for fields that do not go together.
    """

    name: str
    architecture: str
    source: Literal["timm", "open_clip"] = "timm"
    feature: Feature = "cls"
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    projection: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tag: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "architecture"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"a branch's {name} must be text, got {getattr(self, name)!r:.60}.")
        for name in ("image_size", "projection"):
            value = getattr(self, name)
            if not (type(value) is int and value >= 1) and (name, value) != ("projection", None):
                raise ValueError(
                    f"branch '{self.name}': {name} must be a whole number of at least 1, got {value!r:.60}."
                )
        if self.feature not in get_args(Feature):
            raise ValueError(f"unknown feature '{self.feature}'; known: {', '.join(get_args(Feature))}.")
        if self.source not in ("timm", "open_clip"):
            raise ValueError(f"unknown source '{self.source}'; known: open_clip, timm.")
        if self.source == "timm" and (self.feature == "embedding") != (self.projection is not None):
            raise ValueError(
                f"branch '{self.name}': feature='embedding' and projection go together, got feature='{self.feature}', "
                f"projection={self.projection}; give both or neither."
            )
        if self.source == "open_clip" and self.feature != "pooled":
            raise ValueError(
                f"branch '{self.name}': an open_clip tower has feature='pooled' only, got '{self.feature}'."
            )
        for name in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) != 3:
                raise ValueError(f"branch '{self.name}': {name} needs three numbers (R, G, B), got {value}.")
            if not all(math.isfinite(v) for v in value) or (name == "std" and 0 in value):
                raise ValueError(f"branch '{self.name}': {name} must be finite, and std not 0, got {value}.")
            object.__setattr__(self, name, value)

    @property
    def has_patches(self) -> bool:
        """Whether the feature keeps its tokens: `(b, 1 + n, d)` instead of `(b, d)`."""
        return self.feature == "cls_patch"


class Branch(nn.Module):
    """A tower as a function from RGB images `(b, 3, h, w)` in [0, 1] to features `(b, d)`, or `(b, 1 + n, d)` with patches.

    pretrained: False for random weights, True for those that `config.tag` names, downloaded by timm or open_clip, or taken
        from huggingface_hub's cache where there is no network.

    Plain Vision Transformers take images of any size, with resampled positions; other towers only their own size.
    Raises ValueError for an unknown architecture or a feature that it does not have, FileNotFoundError for base weights that
    are not in the cache where there is no network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BranchConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        if pretrained and config.tag is None:
            raise ValueError(
                f"branch '{config.name}' names no base weights; give tag='...' (timm.list_pretrained("
                f"'{config.architecture}*') or open_clip.list_pretrained() list them), or use pretrained=False."
            )
        self.backbone: Any
        self.projection: nn.Parameter | None = None
        if config.source == "timm":
            self.backbone, self.projection = _build_timm(config, pretrained)
        else:
            self.backbone = _build_open_clip(config, pretrained)
        self.plain = config.source == "timm" and vit.is_plain(self.backbone)
        if self.plain and self.backbone.patch_embed.proj.bias is None:
            # CLIP's convolution has no bias; the folded normalisation needs one, and the original's files hold zeros
            conv = self.backbone.patch_embed.proj
            conv.bias = nn.Parameter(torch.zeros_like(conv.weight[:, 0, 0, 0]))
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)
        self.set_colours()

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def set_colours(self) -> None:
        """Make mean and std again, on the device and in the precision of the weights.

        They come from the digits of the config, not from a rounded copy: `.float().double()` keeps float64 exact.
        """
        beside = next(self.parameters())
        self.mean, self.std = (
            torch.tensor(value, dtype=beside.dtype, device=beside.device)
            for value in (self.config.mean, self.config.std)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Branch:
        super()._apply(fn, recurse)
        self.set_colours()
        return self

    def forward(self, images: Image, adapters: Names | None = None) -> Tensor:
        """The feature of images `(b, 3, h, w)`.

        adapters: the attached adapter of all images, or one for each; None is the active one.

        Raises ValueError for adapters in towers whose layers are not called one by one here.
        """
        feature = self.config.feature
        if self.plain and feature != "pooled":
            class_only = not self.config.has_patches
            return self.read(vit.tokens(self.backbone, images, self.mean, self.std, class_only, adapters))
        if adapters is not None and any(hasattr(module, "lora_A") for module in self.modules()):
            raise ValueError(
                f"adapters can be chosen for a call in plain Vision Transformers only, and '{self.config.name}' is "
                f"'{self.config.architecture}'; use set_adapter."
            )
        images = images.to(self.dtype)
        images = (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        if feature == "pooled":
            x = self.backbone(images)
            x = x[0] if isinstance(x, tuple) else x  # CoCa's tower returns its tokens too
        elif feature in ("cls", "cls_patch"):
            (features,) = self.backbone.forward_intermediates(
                images, indices=1, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
            )
            patches, prefix = features
            if feature == "cls_patch":
                return torch.cat([prefix[:, :1], patches], dim=1)
            x = prefix[:, 0]
        else:
            x = self.backbone.forward_features(images)[:, 0]
        return self._project(x)

    def read(self, tokens: Tensor) -> Tensor:
        """The feature in the tokens `(b, n, d)` that leave the last block of a plain Vision Transformer."""
        if self.config.has_patches:
            return tokens
        x = tokens[:, 0]
        return self._project(x if self.config.feature == "cls" else vit.norm(self.backbone.norm, x))

    def _project(self, x: Tensor) -> Tensor:
        return x if self.projection is None else x @ self.projection.to(x.dtype)


def _build_timm(config: BranchConfig, pretrained: bool) -> tuple[nn.Module, nn.Parameter | None]:
    name = config.architecture if not pretrained else f"{config.architecture}.{config.tag}"
    options: dict[str, Any] = {"num_classes": config.projection or 0, **config.overrides}
    if pretrained and (file := cached_weights(config)) is not None:
        options["pretrained_cfg_overlay"] = {"file": os.fspath(file), "custom_load": False}
    try:
        model: Any = _create_timm(name, pretrained, {"img_size": config.image_size, **options})
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise ValueError(
            f"branch '{config.name}': timm has no model '{config.architecture}'; "
            f"timm.list_models('*{config.architecture.split('_')[0]}*') lists its names."
        ) from error
    if config.feature in ("cls", "cls_patch", "last_layer", "embedding") and not getattr(model, "num_prefix_tokens", 0):
        raise ValueError(
            f"branch '{config.name}': '{config.architecture}' has no class token, so feature='{config.feature}' cannot be "
            "read; use feature='pooled'."
        )
    if config.feature in ("cls", "cls_patch") and not vit.is_plain(model):
        method = getattr(model, "forward_intermediates", None)
        if method is None or "return_prefix_tokens" not in inspect.signature(method).parameters:
            raise ValueError(
                f"branch '{config.name}': timm does not return the tokens of '{config.architecture}', so "
                f"feature='{config.feature}' cannot be read; use feature='last_layer' or feature='pooled'."
            )
    projection = None
    if config.projection is not None:
        # timm keeps CLIP's output projection as a classifier; here it is a matrix (d, p), as in the original's files
        projection = nn.Parameter(model.head.weight.detach().T.contiguous())
        model.reset_classifier(0)
    return model, projection


def _create_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """The model at the wanted size, if its constructor takes one: convolutional networks take images of any size."""
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    del options["img_size"]
    return timm.create_model(name, pretrained=pretrained, **options)


def _build_open_clip(config: BranchConfig, pretrained: bool) -> nn.Module:
    import open_clip  # slow: imports transformers

    if config.architecture not in open_clip.list_models():
        raise ValueError(
            f"branch '{config.name}': open_clip has no model '{config.architecture}'; open_clip.list_models() lists its names."
        )
    weights = config.tag if pretrained else None
    if pretrained and (file := cached_weights(config)) is not None:
        weights = os.fspath(file)
    model = open_clip.create_model(
        config.architecture,
        pretrained=weights,
        force_image_size=config.image_size,
        **config.overrides,
    )
    return cast(nn.Module, model.visual)
