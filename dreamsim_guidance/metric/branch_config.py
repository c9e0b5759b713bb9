"""The description of a branch: plain data that can be written to a file, and that names what timm or open_clip builds."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dreamsim_guidance.metric.tower_weights import TowerWeights

__all__ = ["CLIP_MEAN", "CLIP_STD", "IMAGENET_MEAN", "IMAGENET_STD", "BranchConfig", "Feature"]

Feature = Literal["cls", "embedding", "last_layer", "cls_patch", "pooled"]
"""What is read from a tower.

cls: the class token before the final norm.
last_layer: the class token after the final norm.
embedding: the class token after the final norm, times the output projection (CLIP).
cls_patch: class and patch tokens before the final norm.
pooled: what the tower itself returns as its image feature; of single layers, the mean over the positions.
"""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class BranchConfig:
    """A vision tower, its weights, how its feature is read, and how much that counts.

    name: of the branch, for messages and cards.
    architecture: a model of timm or open_clip (`source`).
    feature: see `Feature`. By default "embedding" with a projection, "cls" for timm's towers with a class token, else "pooled".
    image_size: side of the square that the tower sees, in pixels.
    mean, std: normalisation of R, G, B in [0, 1].
    projection: width of the output projection that `feature="embedding"` needs.
    overrides: further keyword arguments of the tower's constructor.
    tag: published weights by their name in timm or open_clip ("dino", "openai", ...), instead of `weights`.
    weights: where the tower's weights are: a local file, a file inside an installed package, or a repository of the Hugging
        Face Hub; a string or a path is short for `TowerWeights(place)`. Read by `Branch(config, pretrained=True)` and
        `DreamSim([config])`, never when a model file is opened, where it is a record.
    layers: blocks of a transformer or stages of a convolutional network that are read instead of the tower's output, as
        timm's `forward_intermediates` counts them from 0; -1 is the last. Each layer's feature is centred, scaled to length
        one, and counts with its weight.
    layer_weights: one positive number for each layer; by default all count alike. Only ratios matter.
    spatial: compare position by position instead of pooling: at every position of every layer (by default of the last), half
        the squared chord between the unit vectors of the channels, averaged over positions and layers, as in LPIPS (Zhang et
        al., CVPR 2018) but for its learned weights.
    weight: how much the branch counts beside others; only ratios matter. The branch's feature is then centred and scaled to
        length one, so that the distance of the ensemble is the weighted mean of the distances of its branches. None, as in
        the original, joins features as they are: a branch counts with the square of its feature's length. A branch with
        layers or maps has weight 1 by default.

    Raises ValueError or TypeError for values that no tower can have, and for fields that do not go together.
    """

    name: str
    architecture: str
    source: Literal["timm", "open_clip"] = "timm"
    feature: Feature | None = None
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    projection: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tag: str | None = None
    weights: TowerWeights | str | os.PathLike[str] | None = None
    layers: tuple[int, ...] | None = None
    layer_weights: tuple[float, ...] | None = None
    spatial: bool = False
    weight: float | None = None

    def __post_init__(self) -> None:
        for name in ("name", "architecture"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"a branch's {name} must be text, got {getattr(self, name)!r:.60}.")
        if not isinstance(self.tag, str | None):
            raise TypeError(f"branch '{self.name}': tag must be text or None, got {self.tag!r:.60}.")
        for name in ("image_size", "projection"):
            value = getattr(self, name)
            if not (type(value) is int and value >= 1) and (name, value) != ("projection", None):
                raise ValueError(
                    f"branch '{self.name}': {name} must be a whole number of at least 1, got {value!r:.60}."
                )
        if self.feature not in (None, *get_args(Feature)):
            raise ValueError(f"unknown feature '{self.feature}'; known: {', '.join(get_args(Feature))}.")
        if self.source not in ("timm", "open_clip"):
            raise ValueError(f"unknown source '{self.source}'; known: open_clip, timm.")
        for name in ("mean", "std"):
            value = tuple(float(v) for v in getattr(self, name))
            if len(value) != 3:
                raise ValueError(f"branch '{self.name}': {name} needs three numbers (R, G, B), got {value}.")
            if not all(math.isfinite(v) for v in value) or (name == "std" and 0 in value):
                raise ValueError(f"branch '{self.name}': {name} must be finite, and std not 0, got {value}.")
            object.__setattr__(self, name, value)
        self._check_weights()
        self._check_layers()
        self._check_feature()

    def _check_weights(self) -> None:
        if isinstance(self.weights, str | os.PathLike):
            object.__setattr__(self, "weights", TowerWeights(os.fspath(self.weights)))
        if not isinstance(self.weights, TowerWeights | None):
            raise TypeError(f"branch '{self.name}': weights are a place or a TowerWeights, got {self.weights!r:.60}.")
        if self.weights is not None and self.tag is not None:
            raise ValueError(f"branch '{self.name}': tag and weights both name its weights; give one of them.")
        if self.weight is not None and not _positive(self.weight):
            raise ValueError(f"branch '{self.name}': weight must be a positive number, got {self.weight!r:.60}.")

    def _check_layers(self) -> None:
        for name in ("layers", "layer_weights"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, str) or not isinstance(value, tuple | list) or not value:
                raise ValueError(
                    f"branch '{self.name}': {name} must be several numbers, e.g. (2, 3), got {value!r:.60}."
                )
            object.__setattr__(self, name, tuple(value))
        if type(self.spatial) is not bool:
            raise TypeError(f"branch '{self.name}': spatial is True or False, got {self.spatial!r:.60}.")
        if self.layers is not None and not all(type(layer) is int for layer in self.layers):
            raise ValueError(f"branch '{self.name}': layers must be whole numbers, got {self.layers!r:.60}.")
        if self.layer_weights is not None:
            if self.layers is None or len(self.layers) != len(self.layer_weights):
                raise ValueError(
                    f"branch '{self.name}': layer_weights need one number for each of layers, got {self.layer_weights} for "
                    f"{self.layers}."
                )
            if not all(_positive(weight) for weight in self.layer_weights):
                raise ValueError(
                    f"branch '{self.name}': layer_weights must be positive numbers, got {self.layer_weights}; leave out a "
                    "layer that shall not count."
                )

    def _check_feature(self) -> None:
        if (self.layers is not None or self.spatial) and self.source == "open_clip":
            raise ValueError(
                f"branch '{self.name}': layers and spatial are for towers of timm, which has CLIP's towers too, e.g. "
                "'vit_base_patch16_clip_224'."
            )
        if self.spatial and self.feature not in (None, "pooled"):
            raise ValueError(
                f"branch '{self.name}': spatial=True reads maps, so feature='{self.feature}' has no meaning; leave it out."
            )
        if self.layers is not None and self.feature not in (None, "cls", "pooled"):
            raise ValueError(
                f"branch '{self.name}': layers are read with feature='cls' or 'pooled', or spatial=True, got "
                f"'{self.feature}'."
            )
        wants_projection = self.feature == "embedding" or (self.feature is None and self.projection is not None)
        reads_layers = self.layers is not None or self.spatial
        if self.source == "timm" and (
            wants_projection != (self.projection is not None) or (wants_projection and reads_layers)
        ):
            raise ValueError(
                f"branch '{self.name}': feature='embedding' and projection go together, got feature='{self.feature}', "
                f"projection={self.projection}; give both or neither."
            )
        if self.source == "open_clip" and self.feature not in (None, "pooled"):
            raise ValueError(
                f"branch '{self.name}': an open_clip tower has feature='pooled' only, got '{self.feature}'."
            )

    @property
    def has_patches(self) -> bool:
        """Whether the feature keeps its tokens: `(b, 1 + n, d)` instead of `(b, d)`."""
        return self.feature == "cls_patch"

    @property
    def reads_layers(self) -> bool:
        """Whether the tower's layers are read, instead of its output."""
        return self.layers is not None or self.spatial

    @property
    def explicit_weight(self) -> float | None:
        """How much the branch counts beside others; None for a feature that is joined as it is."""
        return 1.0 if self.weight is None and self.reads_layers else self.weight


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
