"""DreamSim: how different two images look to people, differentiable in both.

    e(x) = centre(concat_i branch_i(x)),   u(x) = e(x) / |e(x)|,   d(x, y) = |u(x) - u(y)|^2 / 2

which is 1 - cos(e(x), e(y)); `distance.py` says why it is computed in this form.

Fu et al., DreamSim: Learning New Dimensions of Human Visual Similarity using Synthetic Data, NeurIPS 2023.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.capture import Recorder
from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.distance import centre, check_batches, half_chord, mask_out, unit
from dreamsim_guidance.metric.ensemble import Ensemble, building_for
from dreamsim_guidance.metric.loading import Loaded, load_ensemble
from dreamsim_guidance.metric.maps import compare_maps
from dreamsim_guidance.metric.target import Reduction, Target
from dreamsim_guidance.metric.tuned_ensemble import Adapters, TunedEnsemble
from dreamsim_guidance.preprocess import check_candidate, check_images, check_range
from dreamsim_guidance.types import AnyImage, Distance, Embedding, Image, Mask, Squares

__all__ = ["DreamSim"]

_GRIDS = "the maps of x and y must have one grid"
_RESIZE = "use resize=True"

Model = str | os.PathLike[str] | Ensemble | Sequence[Branch | BranchConfig]


class DreamSim(TunedEnsemble):
    """Perceptual distance of two RGB images in [0, 1] of any size and aspect: 0 for equal images, at most 2.

    model: a published variant ("ensemble", "dino_vitb16", ...; see `variants.VARIANTS`), "pocket" (small models that ship
        with the package, for trying and testing), "pocket_robust" (the same, tuned against an adversary), a model file that
        `save` wrote, an `Ensemble`, or a list of branches.
    device: where the weights are; by default PyTorch's default device, which is the CPU unless it was set.
    dtype: precision of the weights; by default float32, or that of a model file in float64, whatever
        `torch.set_default_dtype` says. With float16 or bfloat16 matrix products run in it; tokens, norms and distances stay in
        float32. See the table below.
    weights: folder or zip in the layout of the original's releases, instead of the download cache.
    cache_dir: download cache; see `files.cache.cache_folder` for the default.
    pretrained: False builds a published variant with random weights; True downloads the base weights of a list of
        branches by their tags.
    baseline: True leaves the adapter out and gives the un-tuned ensemble; for published variants and "pocket".
    fold: True folds the adapter into the weights, which is faster; False keeps adapters that can be swapped. It is folded in
        float32, or in float64 with `dtype=torch.float64`.
    resize: True squashes every image to the square of each branch, as the original's `preprocess` does for files; False passes
        tensors on at their own size, as the original's model does, with resampled positions.
    normalize_embeds: centre the embedding and scale it to length one, as the original does.
    stacked: let towers of one geometry run as one network, which launches half as many kernels; True, False, or None for on
        accelerators only. The embedding changes by rounding. `ensemble.unstack()` gives the towers back, for hooks on them.

    Half precision against float32 at full size, random weights without / with outlier channels (details: `docs/results.md`):

    ========  ====================  ====================  =================
    dtype     distance, relative    gradient, cosine      decisions changed
    ========  ====================  ====================  =================
    float16   4e-4 / 5e-4           0.99999 / 0.99999     0.004 / 0.013 %
    bfloat16  9e-3 / 1.2e-2         0.9992 / 0.9989       0.06 / 0.06 %
    ========  ====================  ====================  =================

    The weights are frozen and in eval mode. Images are checked to lie in [0, 1] on the CPU; on an accelerator, where reading
    values back would stall it, only the references given to `target` are.

    With PyTorch's transforms and compilers:

    - `torch.func.grad`, `vmap`, `vjp`, `jvp`, `jacrev`, `jacfwd`, `hessian` and forward-mode differentiation work, over images
      and over references. `vmap` removes the batch dimension, so pass `x[None]` on. Attention then runs in plain operations,
      which need more memory; values are not checked under `vmap`.
    - `torch.compile` and `torch.export` make one graph, also with a dynamic batch.
    - On the device "meta" there are no values: the metric, its embeddings and its targets give shapes. It cannot be saved or
      moved to another device.

    Raises TypeError or ValueError for arguments that do not go together, ValueError or FileNotFoundError for files that are
    damaged or missing, OSError if a download fails.
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
        stacked: bool | None = None,
    ) -> None:
        if isinstance(model, Ensemble):
            loaded = Loaded(model)
        elif isinstance(model, (str, os.PathLike)):
            # files are read on the CPU, modules are built on the default device: here both end on one device
            device = torch.get_default_device() if device is None else torch.device(device)
            with building_for(device):
                loaded = load_ensemble(model, weights, cache_dir, pretrained, baseline)
            normalize_embeds = normalize_embeds and loaded.source.get("normalize_embeds", True)
        elif isinstance(model, Iterable):
            with nullcontext() if device is None else building_for(device):
                branches = [Branch(b, pretrained) if isinstance(b, BranchConfig) else b for b in model]
                loaded = Loaded(Ensemble(branches))
        else:
            raise TypeError(
                f"model must be a name, a model file, an Ensemble or a list of branches, got {type(model).__name__}; "
                "put a single branch in a list."
            )
        super().__init__(loaded, device, dtype, fold, normalize_embeds, stacked)
        self.resize = resize

    def forward(self, x: AnyImage, y: AnyImage, mask: Mask | None = None, adapters: Adapters | None = None) -> Distance:
        """Distance of each pair, `(b,)`, in [0, 2].

        x, y: RGB `(b, 3, h, w)` in [0, 1], each of its own size; a single image on either side is compared with all.
        mask: `(1 or b, 1, h, w)` in [0, 1] of any size; 1 counts, and what lies outside has no influence.
        adapters: the attached adapter that judges, or one for each pair (one base, many raters); None in it is the un-tuned
            ensemble. Chosen ones act without dropout. By default the active one is used, see `set_adapter`.

        Raises TypeError or ValueError for anything but floating-point RGB in [0, 1] on the metric's device, for batches that do
        not go together, and for a mask that is none.
        """
        for images, name in ((x, "x"), (y, "y")):
            self.check(images, name)
        check_batches(x, y)
        return self.compare(x, y, mask, adapters)

    def compare(self, x: AnyImage, y: AnyImage, mask: Mask | None = None, adapters: Adapters | None = None) -> Distance:
        """The distance as in `forward`, for images that have been checked already."""
        a, b = self.directions(x, mask, adapters), self.directions(y, mask, adapters)
        self.check_grids(a, b, x.shape[-2:], y.shape[-2:])
        return half_chord(a, b)

    def check_grids(self, a: Tensor, b: Tensor, first: Sequence[int], second: Sequence[int]) -> None:
        """Raise ValueError unless the maps of two images have the same grids; other embeddings go together at any size.

        a, b: their directions. first, second: their height and width in pixels.
        """
        if not self.ensemble.spatial or self.resize:
            return
        # of images of 64 x 96 and 96 x 64 the directions are equally long, and their positions are not the same
        turned = (first[0] - second[0]) * (first[1] - second[1]) < 0
        if a.shape[-1] != b.shape[-1] or turned:
            raise ValueError(f"{_GRIDS}, got images of {tuple(first)} and {tuple(second)}; {_RESIZE}.")

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
        stacked: bool | None = None,
    ) -> DreamSim:
        """Load a metric that `save`, `save_pretrained` or `push_to_hub` wrote.

        model: a file, a folder, or a repository of the Hugging Face Hub, "owner/name".
        revision, cache_dir, token: for the Hub; see `checkpoints.hub.fetch`, also for the errors.
        device, dtype, resize, stacked: as in `DreamSim`.
        """
        from dreamsim_guidance.checkpoints.hub import fetch

        path = fetch(model, revision=revision, cache_dir=cache_dir, token=token)
        return cls(path, device=device, dtype=dtype, resize=resize, stacked=stacked)

    def embed(self, images: Image, adapters: Adapters | None = None) -> Tensor:
        """Embedding `(b, d)`, or `(b, 1 + n, d)` for patch variants: class token first, then patches row by row.

        images: RGB `(b, 3, h, w)` in [0, 1].
        adapters: as in `forward`; for a single image, several of them give one embedding each.

        Each vector (of patch variants: each token) is centred and of length one, unless `normalize_embeds` is False; in float32
        or better. Raises as `forward`.
        """
        self.check(images, "images")
        return self._embed(images, adapters)

    def distance_map(
        self, x: AnyImage, y: AnyImage, mask: Mask | None = None, adapters: Adapters | None = None
    ) -> Float[Tensor, "b rows columns"]:
        """Distance of the two images at each position, in [0, 2]; for branches with maps, and for patch variants.

        Of maps (`spatial=True`, any tower): the weighted mean over the layers, on the finest grid. Of patch variants: the
        distance of the patch tokens, which attend to the whole image, so that a change in one place alters the map a little
        everywhere.

        x, y, mask, adapters: as in `forward`, with one grid for both images. Raises as `forward`, and ValueError for a metric
        that keeps neither maps nor patch tokens.
        """
        if not (self.ensemble.has_patches or self.ensemble.spatial):
            raise ValueError(
                f"a distance map needs maps or patch tokens, which {self.variant or 'this ensemble'} does not keep; use "
                "DreamSim('photographs_spatial'), DreamSim('dino_vitb16_patch'), DreamSim('dinov2_vitb14_patch'), or branches "
                "with spatial=True or feature='cls_patch'."
            )
        for images, name in ((x, "x"), (y, "y")):
            self.check(images, name)
        check_batches(x, y)
        if self.ensemble.spatial:
            masked = (mask_out(images, mask) for images in (x, y))
            first, second = (self.ensemble.maps(images, self.resize, adapters) for images in masked)
            if [a.shape[-2:] for a in first] != [b.shape[-2:] for b in second]:
                raise ValueError(f"{_GRIDS}, got images of {tuple(x.shape[-2:])} and {tuple(y.shape[-2:])}; {_RESIZE}.")
            return compare_maps(first, second)
        grid = self._grid(x)
        if grid != self._grid(y):
            raise ValueError(f"x and y must have one patch grid, got {grid} and {self._grid(y)}; {_RESIZE}.")
        a, b = (unit(self._embed(mask_out(images, mask), adapters)[:, 1:]) for images in (x, y))
        return half_chord(a, b).unflatten(-1, grid)

    def target(
        self,
        images: Image | Sequence[AnyImage],
        mask: Mask | None = None,
        reduction: Reduction | None = None,
        weights: Sequence[float] | None = None,
        adapters: Adapters | None = None,
        *,
        capture: bool | Recorder = False,
    ) -> Target:
        """A loss towards reference images, whose embeddings are computed here, once: `target(x) -> (b,)`.

        images: references, RGB `(n, 3, h, w)` in [0, 1]; a list of batches if their sizes differ. Without `reduction`, one
            reference serves a whole batch, and n references go with a batch of n, one each.
        mask: `(1, 1, h, w)`, or without `reduction` `(n, 1, h, w)`; confines the comparison as in `forward`.
        reduction: compare every image with all references, and take the "mean" or the "min" of the distances.
        weights: one for each reference, for reduction "mean"; they need not sum to one.
        adapters: as in `forward`, for references and images alike; with `reduction` one name.
        capture: record the distance and its gradient as a CUDA graph for each shape of images, and replay it, which saves the
            time of launching hundreds of kernels; see `Target`. (A `Recorder` records in another way, as tests do.)

        Raises as `forward`, and ValueError for arguments that do not go together and for `capture=True` on another device.
        """
        if adapters is not None and not isinstance(adapters, str) and reduction is not None:
            raise ValueError("an adapter for each image goes without a reduction, which compares every image with all.")
        directions, pictures = self.embed_references(images, mask, adapters)
        return Target(self, directions, mask, reduction, weights, pictures, adapters, capture)

    def embed_references(
        self, images: AnyImage | Sequence[AnyImage], mask: Mask | None = None, adapters: Adapters | None = None
    ) -> tuple[Float[Tensor, "n d"], AnyImage | None]:
        """Unit vectors `(n, d)` of references, checked, and a copy of the pictures if they came in one batch.

        images, mask, adapters, errors: as for `target`.
        """
        references: list[Tensor] = list(images) if isinstance(images, (list, tuple)) else [cast(Tensor, images)]
        if len(references) > 1 and mask is not None:
            raise ValueError("a mask goes with references of one size, in one batch; resize and torch.cat them first.")
        for reference in references:
            self.check(reference, "the reference")
            check_range(reference, "the reference")
        if adapters is not None and not isinstance(adapters, str) and len(references) > 1:
            raise ValueError("an adapter for each image goes with references of one size, in one batch.")
        with torch.no_grad():  # the reference is fixed: no graph through its branch
            vectors = [self.directions(reference, mask, adapters) for reference in references]
        for reference, vector in zip(references, vectors, strict=True):
            self.check_grids(vectors[0], vector, references[0].shape[-2:], reference.shape[-2:])
        directions = torch.cat(vectors)
        return directions, references[0].detach().clone() if len(references) == 1 else None

    def check(self, images: object, name: str = "images", overshoot: bool | None = None) -> None:
        """Raise TypeError or ValueError unless `images` are floating-point RGB in [0, 1] on the metric's device.

        name: of the images in the message. overshoot: as in `check_candidate`.
        """
        check_images(images, name)
        images = cast(Tensor, images)
        if images.device != self.device:
            cure = f"use metric.to('{images.device}') or x.to('{self.device}')"
            if self.device.type == "meta":
                cure = "a metric on 'meta' has no values and gives shapes only: build it again on another device"
            raise ValueError(
                f"{name} and the metric must be on one device, got {images.device} and {self.device}; {cure}."
            )
        check_candidate(images, name, overshoot)

    def _embed(
        self, images: Tensor | Mapping[int, Tensor], adapters: Adapters | None = None, mask: Mask | None = None
    ) -> Tensor:
        return self.normalize(self.ensemble(images, self.resize, adapters, mask))

    def normalize(self, features: Tensor) -> Tensor:
        """The ensemble's features as an embedding: centred and of length one, unless `normalize_embeds` is False.

        Maps are of length one already, and stay as they are.
        """
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if not self.normalize_embeds or self.ensemble.spatial:
            return features
        return unit(centre(features))

    def directions(
        self, images: AnyImage | Squares, mask: Mask | None = None, adapters: Adapters | None = None
    ) -> Embedding:
        """Unit vectors `(b, d)` of images `(b, 3, h, w)`: half the squared chord between two of them is the images' distance.

        Use them to compare every image with many others, as training does. Patch tokens are averaged as in the original,
        weighted by the mask. The images are not checked. adapters: as in `forward`.

        Images that were resized elsewhere, to the square of each branch, are given by the side of the square, with neither a
        mask nor several adapters.
        """
        if isinstance(images, Tensor):
            images = mask_out(images, mask)
        elif mask is not None:
            raise ValueError(
                "a mask goes with images of their own size; leave it out for images that were resized before."
            )
        if self.ensemble.spatial:
            return self._embed(images, adapters, mask)
        embedding = self._embed(images, adapters)
        if self.ensemble.has_patches:
            patches = embedding[:, 1:]
            if mask is None:
                pooled = patches.mean(1)
            else:
                grid = self._grid(cast(Tensor, images))
                share = F.adaptive_avg_pool2d(mask.to(patches.dtype), grid).flatten(1).unsqueeze(-1)
                pooled = (patches * share).sum(1) / share.sum(1).clamp(min=1e-12)
            embedding = torch.cat([embedding[:, 0], pooled], dim=-1)
        return unit(embedding)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        branch = cast(Branch, self.ensemble.branches[0])
        patch = branch.backbone.patch_embed.patch_size[0]
        side = branch.config.image_size
        height, width = (side, side) if self.resize else images.shape[-2:]
        return height // patch, width // patch
