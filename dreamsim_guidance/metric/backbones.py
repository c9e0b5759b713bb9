"""One branch of the metric: a vision tower, the token that is read from it, and its normalisation of colours.

A branch is described by a `BranchConfig`, plain data that can be written to a file, and built by timm or open_clip.
Any of their towers can be used; `variants.py` lists those of the published metric.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamsim_guidance.metric import vit
from dreamsim_guidance.metric.adapter_choice import run_by_adapter
from dreamsim_guidance.metric.adapter_targets import is_adapted
from dreamsim_guidance.metric.branch_config import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    BranchConfig,
    Feature,
)
from dreamsim_guidance.metric.distance import centre, unit
from dreamsim_guidance.metric.low_rank import Names
from dreamsim_guidance.metric.maps import shares
from dreamsim_guidance.metric.towers import build_tower, with_weights
from dreamsim_guidance.tracing import transforms_active
from dreamsim_guidance.types import Image, Map

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "Branch", "BranchConfig", "Feature"]


class Branch(nn.Module):
    """A tower as a function from RGB images `(b, 3, h, w)` in [0, 1] to features `(b, d)`, or `(b, 1 + n, d)` with patches.

    pretrained: False for random weights; True for those that `config.weights` or `config.tag` name, by default those that
        timm loads for the architecture. They are downloaded where need be, or taken from huggingface_hub's cache where there is
        no network.

    `config` is the given one with its defaults filled in: the feature, layers counted from 0, and the checksum, licence and
    source of the weights that were read. Convolutional networks and plain Vision Transformers, with resampled positions, take
    images of any size; most others only their own.

    Raises ValueError for an unknown architecture, a feature or a layer that it does not have, weights of another tower or with
    another checksum, and where there are no default weights; FileNotFoundError for weights that are not there, and
    ModuleNotFoundError, with the pip command, for a package that is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BranchConfig, pretrained: bool = False) -> None:
        super().__init__()
        file: Path | None = None
        if pretrained:
            config, file = with_weights(config)
        self.backbone: Any
        self.config, self.backbone, self.projection = build_tower(config, pretrained, file)
        self.plain = self.config.source == "timm" and vit.is_plain(self.backbone)
        self.convolutional = not any("attn" in name for name, _ in self.backbone.named_modules())
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

    def train(self, mode: bool = True) -> Branch:
        """Set the mode. Batch norms of a tower whose weights are frozen keep their statistics: they stay in eval mode."""
        super().train(mode)
        if mode and not any(p.requires_grad for name, p in self.named_parameters() if ".lora_" not in name):
            for module in self.modules():
                if getattr(module, "running_mean", None) is not None:
                    module.eval()
        return self

    @property
    def runs_blocks(self) -> bool:
        """Whether the tower's blocks are run one by one here, and not by the tower's own forward."""
        return self.plain and (self.config.layers is not None or self.config.feature != "pooled")

    @property
    def _takes_names(self) -> bool:
        """Whether the adapters of a call are passed on to the layers."""
        return self.runs_blocks and not is_adapted(self.backbone.patch_embed.proj)

    def forward(self, images: Image, adapters: Names | None = None) -> Tensor:
        """The feature of images `(b, 3, h, w)`.

        adapters: the attached adapter of all images, or one for each; None is the active one. In other towers than plain
            Vision Transformers such a call is not thread-safe, see `adapter_choice.run_by_adapter`.
        """
        if adapters is not None and not self._takes_names:
            return run_by_adapter(self.forward, self, images, adapters)
        if self.config.layers is not None:
            return self._vectors(images, adapters)
        feature = self.config.feature
        if self.runs_blocks:
            class_only = not self.config.has_patches
            return self.read(vit.tokens(self.backbone, images, self.mean, self.std, class_only, adapters))
        images = self._normalised(images)
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

    def maps(self, images: Image, adapters: Names | None = None) -> list[Map]:
        """Unit vectors of the channels at every position, `(b, channels, rows, columns)` for each layer; of spatial branches.

        They are scaled by the square roots of the layers' weights, which sum to one. Arguments and errors as for `forward`.
        """
        if adapters is not None and not self._takes_names:
            return run_by_adapter(self.maps, self, images, adapters)
        layers = self._layers(images, adapters)
        return [s**0.5 * unit(vit.stream(x), 1) for s, (_, x) in zip(self._shares(), layers, strict=True)]

    def last_map(self, images: Image) -> Map:
        """The features of a convolutional tower's last layer at every position, `(b, channels, rows, columns)`.

        images: as for `forward`. Raises ValueError for towers that have no such map.
        """
        run = getattr(self.backbone, "forward_features", None)
        features = run(self._normalised(images)) if run is not None and self.convolutional else None
        if features is None or features.ndim != 4:
            raise ValueError(f"the tower {self.config.name} gives no map of its last layer.")
        return features

    def _vectors(self, images: Image, adapters: Names | None) -> Tensor:
        """The vectors of all layers, each centred and of length one, scaled by the square roots of their weights."""
        vectors = [x.mean((2, 3)) if token is None else token for token, x in self._layers(images, adapters)]
        parts = [share**0.5 * unit(centre(vit.stream(x))) for share, x in zip(self._shares(), vectors, strict=True)]
        return torch.cat(parts, -1)

    def _shares(self) -> list[float]:
        layers = cast("tuple[int, ...]", self.config.layers)
        return shares(self.config.layer_weights or (1.0,) * len(layers))

    def _layers(self, images: Image, adapters: Names | None) -> list[tuple[Tensor | None, Map]]:
        """The class token `(b, d)`, if it is the feature, and the map of every layer that is read."""
        layers = cast("tuple[int, ...]", self.config.layers)
        with_token = self.config.feature == "cls"
        if self.plain:
            tokens = vit.layer_tokens(self.backbone, images, self.mean, self.std, layers, adapters)
            side = self.backbone.patch_embed.patch_size[0]
            rows = images.shape[-2] // side
            return [(x[:, 0] if with_token else None, x[:, 1:].mT.unflatten(2, (rows, -1))) for x in tokens]
        order = sorted(set(layers))  # timm returns every layer once, in the tower's order
        options = {"stop_early": True} | ({"return_prefix_tokens": True} if with_token else {})
        accepted = inspect.signature(self.backbone.forward_intermediates).parameters
        outputs = self.backbone.forward_intermediates(
            self._normalised(images),
            indices=order,
            intermediates_only=True,
            **{name: value for name, value in options.items() if name in accepted},
        )
        by_layer = dict(zip(order, outputs, strict=True))
        read = [by_layer[layer] for layer in layers]
        return [(x[1][:, 0], x[0]) if with_token else (None, x) for x in read]

    def _normalised(self, images: Image) -> Image:
        images = images.to(self.dtype)
        images = (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
        if self.convolutional and not transforms_active():  # vmap knows no memory formats
            return images.contiguous(memory_format=torch.channels_last)  # 1.7 times as fast on a CPU
        return images

    def read(self, tokens: Tensor) -> Tensor:
        """The feature in the tokens `(b, n, d)` that leave the last block of a plain Vision Transformer."""
        if self.config.has_patches:
            return tokens
        x = tokens[:, 0]
        return self._project(x if self.config.feature == "cls" else vit.norm(self.backbone.norm, x))

    def _project(self, x: Tensor) -> Tensor:
        return x if self.projection is None else x @ self.projection.to(x.dtype)
