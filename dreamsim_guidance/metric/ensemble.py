"""Several branches side by side: their features, concatenated.

A branch's weight in the metric is the length of its feature vector, since nothing is normalised before the concatenation.
The optional head is the original's other way of tuning: one residual MLP on the concatenated, frozen features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.loss_scale import LossScale, computes_in_float16
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.tracing import transforms_active
from dreamsim_guidance.types import Embedding, Image

__all__ = ["Ensemble", "MLPHead", "building_for"]


def building_for(device: torch.device | str) -> torch.device:
    """A context in which modules that shall go to `device` are built, whatever PyTorch's default device is.

    On the CPU, so that random weights are the same for every accelerator, and on "meta" for "meta".
    """
    return torch.device("meta" if torch.device(device).type == "meta" else "cpu")


class MLPHead(nn.Module):
    """`W2 relu(W1 x) + x` on features `(b, d)`, with `hidden` units between (512 in the paper's configurations)."""

    def __init__(self, features: int, hidden: int = 512) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Embedding) -> Embedding:
        return self.fc2(F.relu(self.fc1(x.to(self.fc1.weight.dtype)))) + x


class Ensemble(nn.Module):
    """Branches and a head, as a function from RGB images in [0, 1] to `(b, d)`, or `(b, 1 + n, d)` with patch tokens.

    branches: at least one `Branch` or `BranchConfig`; a config is built with random weights.
    hidden: width of an `MLPHead` behind the features; None for no head.

    Raises TypeError for anything but a list of branches, ValueError for an empty one, and for branches with patch tokens beside
    branches without.
    """

    def __init__(self, branches: Iterable[Branch | BranchConfig], hidden: int | None = None) -> None:
        super().__init__()
        if isinstance(branches, (str, Branch, BranchConfig)) or not isinstance(branches, Iterable):
            raise TypeError(f"an ensemble needs a list of branches, got {branches!r:.80}; put the branch in a list.")
        branches = list(branches)
        if not branches:
            raise ValueError("an ensemble needs a list of at least one branch, got an empty one.")
        for branch in branches:
            if not isinstance(branch, (Branch, BranchConfig)):
                raise TypeError(
                    f"a branch is a Branch or a BranchConfig, got {type(branch).__name__}; build one from a timm name."
                )
        modules = [branch if isinstance(branch, Branch) else Branch(branch) for branch in branches]
        if len({branch.config.has_patches for branch in modules}) > 1:
            raise ValueError(
                "feature='cls_patch' must be set for all branches or for none; mixed features cannot be joined."
            )
        self.branches = nn.ModuleList(modules)
        self.head: MLPHead | None = None
        if hidden is not None:
            self.attach_head(hidden)

    def attach_head(self, hidden: int = 512) -> MLPHead:
        """Put a fresh, trainable head of `hidden` units behind the features, in place of an earlier one."""
        self.head = None
        with building_for(self.device):
            head = MLPHead(self._width(), hidden).to(device=self.device, dtype=self.dtype)
        self.head = head
        return head

    @property
    def configs(self) -> tuple[BranchConfig, ...]:
        return tuple(branch.config for branch in self.branches)  # type: ignore[misc]

    @property
    def has_patches(self) -> bool:
        """Whether the output holds patch tokens."""
        return self.configs[0].has_patches

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, images: Image, squash: bool = True) -> Tensor:
        """Concatenated features of images `(b, 3, h, w)`.

        squash: True resizes them to the square of each branch, False passes them on at their own size.
        """
        sizes = [config.image_size for config in self.configs]
        resized = {size: resize(images, (size, size)) if squash else images for size in set(sizes)}
        scale = LossScale() if self._scales_gradients() else None
        if scale is not None:
            resized = {size: scale.images(image) for size, image in resized.items()}
        features = [branch(resized[size]) for branch, size in zip(self.branches, sizes, strict=True)]
        if len({f.shape[1] for f in features}) > 1 and self.has_patches:
            raise ValueError(
                f"patch branches must have one grid, got {[f.shape[1] - 1 for f in features]} patches; "
                "choose image sizes that give the same grid."
            )
        x = torch.cat(features, dim=-1)
        if self.head is not None:
            x = self.head(x)
        return x if scale is None else scale.features(x)

    def _scales_gradients(self) -> bool:
        """Whether only images receive gradients, and these pass through products in float16."""
        if not computes_in_float16(self.dtype, self.device) or transforms_active():
            return False
        return not any(parameter.requires_grad for parameter in self.parameters())

    @torch.no_grad()
    def _width(self) -> int:
        sides = [config.image_size for config in self.configs]
        probes = [torch.zeros(1, 3, side, side, dtype=self.dtype, device=self.device) for side in sides]
        return sum(branch.eval()(probe).shape[-1] for branch, probe in zip(self.branches, probes, strict=True))
