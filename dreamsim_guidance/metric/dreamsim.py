"""DreamSim: how different two images look to people, differentiable in both.

    e(x) = centre(concat_i branch_i(x)),   u(x) = e(x) / |e(x)|,   d(x, y) = |u(x) - u(y)|^2 / 2

The half squared chord is the same number as 1 - cos(e(x), e(y)), in [0, 2]; but it is never negative, exact near zero,
where float32 `1 - cos` is all rounding, and its gradient at identical images is zero and finite.

Fu et al., DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, NeurIPS 2023.
"""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.metric import adapters
from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.variants import variant
from dreamsim_guidance.preprocess import check_candidate, check_images, check_range, values_unknown
from dreamsim_guidance.types import AnyImage, Distance, Embedding, Image, Mask

__all__ = ["DreamSim", "Target", "half_chord", "unit"]

Model = str | os.PathLike[str] | Ensemble | Sequence[Branch | BranchConfig]
Reduction = Literal["mean", "min"]

_POCKET = Path(__file__).parents[1] / "weights" / "pocket.safetensors"
_POCKET_ADAPTER = Path(__file__).parents[1] / "weights" / "pocket_adapter"
_FOLDING = threading.Lock()
_FILL = (0.485, 0.456, 0.406)
"""What masked pixels become: ImageNet's mean colour, zero after the usual normalisation."""


class DreamSim(nn.Module):
    """Perceptual distance of RGB images in [0, 1], any size and aspect; lower is more alike, in [0, 2].

    `model` is a published variant ("ensemble", "dino_vitb16", ...; see `variants.VARIANTS`), "pocket" (small models that
    ship with the package, for trying and testing), a model file that `save` wrote, an `Ensemble`, or a list of branches.

    weights: folder or zip in the layout of the original's releases, instead of the download cache `cache_dir`.
    pretrained: False builds the architecture with random weights; with a list of branches, True downloads their base
        weights by tag.
    baseline: True leaves the adapter out: the un-tuned ensemble; for published variants and "pocket".
    fold: fold the adapter into the weights at the first use, which is faster. False keeps adapters that can be swapped.
    resize: True squashes every image to the branches' own square, as the original's `preprocess` does for files. False
        passes tensors on as they are, as the original's model does, with resampled positions.
    normalize_embeds: centre the embedding and scale it to length one, as the original.

    The weights are frozen and in eval mode. Values are checked to lie in [0, 1] on the CPU; on an accelerator only for
    the reference given to `target`, since reading them back would stall it.
    """

    def __init__(
        self,
        model: Model = "ensemble",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weights: str | os.PathLike[str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        pretrained: bool = True,
        baseline: bool = False,
        fold: bool = True,
        resize: bool = True,
        normalize_embeds: bool = True,
    ) -> None:
        super().__init__()
        self.variant: str | None = None
        self.source: dict[str, Any] = {}
        self.origin: str | None = None
        self.folded = False
        adapter: Path | None = None
        if isinstance(model, Ensemble):
            self.ensemble = model
        elif isinstance(model, (str, os.PathLike)):
            self.ensemble, adapter = self._load(model, weights, cache_dir, pretrained, baseline)
            normalize_embeds = normalize_embeds and self.source.get("normalize_embeds", True)
        elif isinstance(model, Iterable):
            self.ensemble = Ensemble([Branch(b, pretrained) if isinstance(b, BranchConfig) else b for b in model])
        else:
            raise TypeError(
                f"model must be a name, a model file, an Ensemble or a list of branches, got {type(model).__name__}; "
                "put a single branch in a list."
            )
        self.resize = resize
        self.normalize_embeds = normalize_embeds
        self.fold_at_first_use = fold
        self.ensemble.to(device=device, dtype=dtype)
        if adapter is not None:
            adapters.load_adapter(self.ensemble, adapter)
        self.requires_grad_(False).eval()
        # folding waits for the first use, but must not show: tensors have one set of names, before and after
        self.register_state_dict_pre_hook(_fold_first)
        self.register_load_state_dict_pre_hook(_fold_first)

    def _load(
        self,
        model: str | os.PathLike[str],
        weights: str | os.PathLike[str] | None,
        cache_dir: str | os.PathLike[str] | None,
        pretrained: bool,
        baseline: bool,
    ) -> tuple[Ensemble, Path | None]:
        if model == "pocket" or Path(model).suffix == ".safetensors":
            if weights is not None or not pretrained or (baseline and model != "pocket"):
                raise ValueError(
                    f"'{model}' is one file with its weights: weights, baseline and pretrained=False are for published "
                    "variants; leave them out."
                )
            from dreamsim_guidance.checkpoints.model_file import read_model

            ensemble, self.source = read_model(_POCKET if model == "pocket" else model)
            self.variant = self.source["name"]
            if model != "pocket" or baseline:
                return ensemble, None
            self.source |= json.loads((_POCKET_ADAPTER / "card.json").read_text(encoding="utf-8"))
            return ensemble, _POCKET_ADAPTER
        if Path(model).is_dir():
            raise ValueError(
                f"'{model}' is a folder; use DreamSim.from_pretrained for one that save_pretrained wrote, or "
                "DreamSim(name, weights=folder) for an official release."
            )
        published = variant(str(model))
        self.variant = published.name
        if not pretrained:
            self.origin = "random"
            return Ensemble(published.branches), None
        self.origin = "base" if baseline else "published"
        from dreamsim_guidance.checkpoints.official import load_official

        checkpoint = load_official(published.name, weights=weights, cache_dir=cache_dir, pretrained=not baseline)
        return checkpoint.ensemble, checkpoint.adapter

    @property
    def device(self) -> torch.device:
        return self.ensemble.device

    @property
    def dtype(self) -> torch.dtype:
        return self.ensemble.dtype

    def forward(self, x: AnyImage, y: AnyImage, mask: Mask | None = None) -> Distance:
        """Distance of each pair, `(b,)`; a single image on either side serves the whole batch.

        `mask` (`(b or 1, 1, h, w)`, 1 counts) confines the comparison: what lies outside has no influence.
        Raises TypeError or ValueError for anything but floating-point RGB in [0, 1] on the metric's device.
        """
        for images, name in ((x, "x"), (y, "y")):
            self.check(images, name)
        _check_batches(x, y)
        return self.compare(x, y, mask)

    def compare(self, x: AnyImage, y: AnyImage, mask: Mask | None = None) -> Distance:
        """`forward` for images that have been checked already."""
        return half_chord(self.directions(x, mask), self.directions(y, mask))

    def embed(self, images: Image) -> Tensor:
        """Embedding `(b, d)`, or `(b, 1 + n, d)` for patch variants: class token first, then patches row by row.

        Centred and of length one (each token for itself) unless `normalize_embeds` is off; at least float32.
        """
        self.check(images, "images")
        return self._embed(images)

    def distance_map(self, x: AnyImage, y: AnyImage, mask: Mask | None = None) -> Float[Tensor, "b rows columns"]:
        """Half squared chord between the two images' patch tokens at each place, in [0, 2]; patch variants only.

        Tokens attend to the whole image: a change somewhere moves the map a little everywhere.
        """
        if not self.ensemble.has_patches:
            raise ValueError(
                f"a distance map needs patch tokens, which {self.variant or 'this ensemble'} does not keep; use "
                "DreamSim('dino_vitb16_patch'), DreamSim('dinov2_vitb14_patch'), or branches with feature='cls_patch'."
            )
        for images, name in ((x, "x"), (y, "y")):
            self.check(images, name)
        _check_batches(x, y)
        grid = self._grid(x)
        if grid != self._grid(y):
            raise ValueError(f"x and y must have one patch grid, got {grid} and {self._grid(y)}; use resize=True.")
        a, b = (unit(self._embed(_mask_out(images, mask))[:, 1:]) for images in (x, y))
        return half_chord(a, b).unflatten(-1, grid)

    def target(
        self,
        images: Image | Sequence[AnyImage],
        mask: Mask | None = None,
        reduction: Reduction | None = None,
        weights: Sequence[float] | None = None,
    ) -> Target:
        """A loss towards reference images whose embeddings are computed here, once: `target(x) -> (b,)`.

        One reference serves a whole batch; n references go with a batch of n, one each. With `reduction` every image is
        compared with all of them: "mean" (weighted by `weights`, which need not sum to one) or "min". `mask` is one for
        all, or without `reduction` one for each reference. References of different sizes come as a list of batches.
        """
        references: list[Tensor] = list(images) if isinstance(images, (list, tuple)) else [cast(Tensor, images)]
        if len(references) > 1 and mask is not None:
            raise ValueError("a mask goes with references of one size, in one batch; resize and torch.cat them first.")
        for reference in references:
            self.check(reference, "the reference")
            check_range(reference, "the reference")
        with torch.no_grad():  # the reference is fixed: no graph through its branch
            directions = torch.cat([self.directions(reference, mask) for reference in references])
        pictures = references[0].detach().clone() if len(references) == 1 else None
        return Target(self, directions, mask, reduction, weights, pictures)

    def fold(self) -> DreamSim:
        """Fold the active adapter into the weights now; the embedding changes by rounding only.

        Worth calling before `torch.compile(metric)`, which cannot do it.
        """
        with _FOLDING:  # threads that share a metric: one folds, the others wait
            if adapters.adapter_names(self.ensemble):
                adapters.fold_adapters(self.ensemble)
                self.folded = True
        return self

    def compile(self, *arguments: Any, **options: Any) -> None:
        """`nn.Module.compile`, after folding."""
        _fold_first(self)
        super().compile(*arguments, **options)

    def attach_adapter(self, rank: int = 16, alpha: float = 8.0, dropout: float = 0.3, name: str = "default") -> None:
        """Attach a fresh, trainable adapter; see `adapters.attach_adapter`. It is not folded at the next use."""
        self._refuse_if_folded("attach")
        adapters.attach_adapter(self.ensemble, rank, alpha, dropout, name=name)
        self._changed()

    def attach_head(self, hidden: int = 512) -> None:
        """Put a fresh, trainable residual MLP behind the frozen features: the paper's other way of tuning.

        Begin with `baseline=True`, as the original does. `save` writes the head with the rest.
        """
        self.ensemble.attach_head(hidden)
        self._changed()

    def load_adapter(self, folder: str | os.PathLike[str], name: str = "default") -> None:
        """Attach the adapter in a peft folder and make it the active one. It is not folded at the next use."""
        self._refuse_if_folded("load")
        adapters.load_adapter(self.ensemble, folder, name)
        self._changed()

    def _changed(self) -> None:
        """Adapters are the user's from now on, and figures that were published or saved hold no more."""
        self.fold_at_first_use, self.origin = False, None
        self.source = {**self.source, "reference": {}} if self.source else {}

    def _refuse_if_folded(self, verb: str) -> None:
        if self.folded or (self.fold_at_first_use and adapters.adapter_names(self.ensemble)):
            raise ValueError(
                f"cannot {verb} an adapter: one is part of the weights already, and both would add up. Build the metric "
                "with fold=False to keep several and swap them, or with baseline=True to begin without one."
            )

    def save_adapter(self, folder: str | os.PathLike[str], name: str | None = None) -> None:
        """Write an adapter as a peft folder that the original package loads too."""
        adapters.save_adapter(self.ensemble, folder, name)

    def set_adapter(self, name: str | None, trainable: bool = False) -> None:
        """Make one of several attached adapters the active one; None is the un-tuned ensemble. Frozen unless `trainable`."""
        adapters.set_adapter(self.ensemble, name, trainable)

    @property
    def card(self) -> dict[str, Any]:
        """What a model file says of this metric: branches, source, licence, reference numbers."""
        card: dict[str, Any] = {"source": "unknown", "licence": "unknown", "reference": {}}
        if self.origin == "random":
            card["source"] = "random weights"
        elif self.origin is not None and self.variant is not None:
            published = variant(self.variant)
            card |= {"source": published.url, "licence": "MIT (dreamsim); the branches' own licences apply"}
            if self.origin == "published":  # figures are those of the untouched release only
                card["reference"] = {f"NIGHTS {s}, published": value for s, value in published.agreement.items()}
            else:
                card["source"] += " (base weights, no adapter)"
        return {
            **card,
            **self.source,
            "name": self.variant or "dreamsim",
            "branches": [asdict(config) for config in self.ensemble.configs],
            "head": None if self.ensemble.head is None else {"hidden": self.ensemble.head.fc1.out_features},
            "normalize_embeds": self.normalize_embeds,
        }

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **card: Any) -> None:
        """Write weights (adapter folded) and card to one safetensors file; `card` replaces entries of the card.

        Load it with `DreamSim(path)`. The file appears whole or not at all. Adapters in training stay as they are.
        """
        from dreamsim_guidance.checkpoints.model_file import write_model

        _fold_first(self)
        ensemble = self.ensemble
        if adapters.adapter_names(ensemble):
            ensemble = copy.deepcopy(ensemble)
            adapters.fold_adapters(ensemble)
        write_model(ensemble, path, {**self.card, **card}, dtype=dtype)

    def save_pretrained(self, folder: str | os.PathLike[str], **card: Any) -> None:
        """Write the model file and a README made from its card into `folder`; `from_pretrained(folder)` reads it."""
        from dreamsim_guidance.checkpoints.hub import FILE_NAME, write_folder_card

        self.save(Path(folder, FILE_NAME), **card)
        write_folder_card(folder)

    def push_to_hub(self, repo_id: str, *, dtype: torch.dtype | None = None, **options: Any) -> str:
        """Upload the model file and a README made from its card to the Hugging Face Hub; the commit's address.

        `options` are those of `hub.push`: private, token, revision, commit_message, create_pr.
        """
        from dreamsim_guidance.checkpoints.hub import FILE_NAME, push

        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder, FILE_NAME), dtype)
            return push(Path(folder, FILE_NAME), repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        resize: bool = True,
    ) -> DreamSim:
        """A metric that `save`, `save_pretrained` or `push_to_hub` wrote: a file, a folder, or "owner/name" on the Hub."""
        from dreamsim_guidance.checkpoints.hub import fetch

        path = fetch(model, revision=revision, cache_dir=cache_dir, token=token)
        return cls(path, device=device, dtype=dtype, resize=resize)

    def check(self, images: object, name: str = "images", overshoot: bool | None = None) -> None:
        """Raise TypeError or ValueError unless the metric can take `images`; `overshoot` as in `check_candidate`."""
        check_images(images, name)
        images = cast(Tensor, images)
        if images.device != self.device:
            raise ValueError(
                f"{name} and the metric must be on one device, got {images.device} and {self.device}; "
                f"use metric.to('{images.device}') or x.to('{self.device}')."
            )
        check_candidate(images, name, overshoot)

    def _embed(self, images: Tensor) -> Tensor:
        if not values_unknown():
            _fold_first(self)
        return self.normalize(self.ensemble(images, squash=self.resize))

    def normalize(self, features: Tensor) -> Tensor:
        """The ensemble's features as an embedding: centred and of length one, unless `normalize_embeds` is off."""
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if not self.normalize_embeds:
            return features
        return unit(features - features.mean(-1, keepdim=True))

    def directions(self, images: Image, mask: Mask | None = None) -> Embedding:
        """Unit vectors `(b, d)`: half the squared chord between two of them is the images' distance.

        For whoever compares every image with many, as training does; differentiable. Patch tokens are pooled by the
        mask, as the original pools them. The images are not checked.
        """
        embedding = self._embed(_mask_out(images, mask))
        if self.ensemble.has_patches:
            patches = embedding[:, 1:]
            if mask is None:
                pooled = patches.mean(1)
            else:
                share = F.adaptive_avg_pool2d(mask.to(patches.dtype), self._grid(images)).flatten(1).unsqueeze(-1)
                pooled = (patches * share).sum(1) / share.sum(1).clamp(min=1e-12)
            embedding = torch.cat([embedding[:, 0], pooled], dim=-1)
        return unit(embedding)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        branch = cast(Branch, self.ensemble.branches[0])
        patch = branch.backbone.patch_embed.patch_size[0]
        side = branch.config.image_size
        height, width = (side, side) if self.resize else images.shape[-2:]
        return height // patch, width // patch


class Target(Loss):
    """Distance to fixed references whose embeddings are kept; made by `DreamSim.target`.

    `target(images) -> (b,)`; adds and scales like every `Loss`.
    """

    name = "dreamsim"
    directions: Tensor
    mask: Tensor | None
    weights_of_references: Tensor | None
    references: Tensor | None
    """The pictures themselves, if they came in one batch: for judges that take no part."""

    def __init__(
        self,
        metric: DreamSim,
        directions: Float[Tensor, "n d"],
        mask: Mask | None = None,
        reduction: Reduction | None = None,
        weights: Sequence[float] | None = None,
        references: Image | None = None,
    ) -> None:
        super().__init__()
        if reduction not in (None, "mean", "min"):
            raise ValueError(f"unknown reduction '{reduction}'; known: mean, min, None (one reference each).")
        if reduction is not None and mask is not None and len(mask) > 1:
            raise ValueError(
                f"with reduction='{reduction}' every image meets every reference under one mask, got {len(mask)} masks; "
                "give one, or add up one target for each reference."
            )
        if weights is not None:
            if reduction != "mean":
                raise ValueError(f"weights need reduction='mean', got reduction={reduction!r}.")
            if len(weights) != len(directions) or not all(math.isfinite(w) for w in weights) or sum(weights) <= 0:
                raise ValueError(
                    f"{len(directions)} finite weights with a positive sum are needed, got {list(weights)}."
                )
        # inside a tuple, nn.Module does not see it: a model that holds this loss keeps its checkpoint and optimiser clean
        self._metric = (metric,)
        self.reduction = reduction
        # not persistent: they belong to the run, not to the checkpoint of a model that holds this loss
        self.register_buffer("directions", directions, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("references", references, persistent=False)
        share = None if weights is None else torch.as_tensor(weights, dtype=directions.dtype, device=directions.device)
        self.register_buffer("weights_of_references", None if share is None else share / share.sum(), persistent=False)

    @property
    def metric(self) -> DreamSim:
        """The metric, shared with whoever made this target; `.to(...)` moves it too."""
        return self._metric[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Target:
        self.metric._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, images: Image) -> Distance:
        self.metric.check(images, overshoot=True)
        if self.reduction is None and len(self.directions) not in (1, len(images)):
            raise ValueError(
                f"one reference, or one for each image, is needed, got {len(self.directions)} references and "
                f"{len(images)} images; to compare with all of them choose reduction='mean' or 'min'."
            )
        x = self.metric.directions(images, self.mask)
        if self.reduction is None:
            return half_chord(x, self.directions)
        distances = half_chord(x[:, None], self.directions[None])
        if self.reduction == "min":
            return distances.amin(1)
        return (
            distances.mean(1) if self.weights_of_references is None else (distances * self.weights_of_references).sum(1)
        )


def _fold_first(metric: DreamSim, *_: Any) -> None:
    """Fold if that is due. Not at construction, so that .double() after it still folds in float64."""
    if metric.fold_at_first_use and adapters.adapter_names(metric.ensemble):
        metric.fold()


def half_chord(a: Tensor, b: Tensor) -> Tensor:
    """The distance of two directions, over the last dimension."""
    return 0.5 * (a - b).square().sum(-1)


def unit(x: Tensor) -> Tensor:
    """An embedding's direction."""
    # the epsilon is under the root: the gradient stays finite for a constant embedding, whose centred length is zero
    return x / (x.square().sum(-1, keepdim=True) + 1e-24).sqrt()


def _check_batches(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y) and 1 not in (len(x), len(y)):
        raise ValueError(
            f"x and y must have one batch size, got {len(x)} and {len(y)}; pass equal numbers, or one image on one side."
        )


def _mask_out(images: Tensor, mask: Tensor | None) -> Tensor:
    """Replace what the mask leaves out by one colour, at the images' own resolution."""
    if mask is None:
        return images
    if not isinstance(mask, Tensor):
        raise TypeError(f"a mask must be a tensor of shape (1 or b, 1, h, w), got {type(mask).__name__}.")
    if (
        mask.ndim != 4
        or mask.shape[1] != 1
        or 0 in mask.shape
        or (len(mask) not in (1, len(images)) and len(images) != 1)
    ):
        raise ValueError(
            f"a mask must have shape (1 or {len(images)}, 1, h, w), got {tuple(mask.shape)}; 1 counts, 0 is left out."
        )
    if mask.device != images.device:
        raise ValueError(
            f"mask and images must be on one device, got {mask.device} and {images.device}; move the mask."
        )
    mask = mask.to(images.dtype)
    if mask.device.type == "cpu" and not values_unknown():
        check_range(mask, "the mask")
        if not bool(mask.flatten(1).any(1).all()):
            raise ValueError("the mask leaves out every pixel of an image; 1 counts, 0 is left out.")
    if mask.shape[-2:] != images.shape[-2:]:
        # in float32: the CPU has no antialiasing in half precision
        mask = F.interpolate(
            mask.to(torch.promote_types(mask.dtype, torch.float32)), images.shape[-2:], mode="bilinear", antialias=True
        )
        mask = mask.to(images.dtype)
    fill = torch.stack([torch.full_like(mask[:, 0], value) for value in _FILL], dim=1)
    return images * mask + fill * (1 - mask)
