"""Several branches side by side: their features, concatenated.

A branch's weight in the metric is the length of its feature vector, since nothing is normalised before the concatenation.
The optional head is the original's other way of tuning: one residual MLP on the concatenated, frozen features.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.loss_scale import LossScale, computes_in_float16
from dreamsim_guidance.metric.low_rank import Names
from dreamsim_guidance.metric.stacked import Stack, groups, obstacle
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.tracing import transforms_active
from dreamsim_guidance.types import Embedding, Image

__all__ = ["Ensemble", "MLPHead", "building_for"]

log = logging.getLogger(__name__)


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

    Towers of one geometry can run as one network, see `stack` and `unstack`; `named_parameters` then has stacked weights, and
    `state_dict` and `load_state_dict` the names and shapes of the towers one by one.

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
        self.stacks = nn.ModuleList()
        self.stacked: bool | None = None
        """Whether towers are to run as one network: None for on accelerators, where that is quicker."""
        self.register_load_state_dict_post_hook(_restack)
        self.head: MLPHead | None = None
        if hidden is not None:
            self.attach_head(hidden)

    def attach_head(self, hidden: int = 512) -> MLPHead:
        """Put a fresh, trainable head of `hidden` units behind the features, in place of an earlier one."""
        self.head = None
        with self.one_by_one(), building_for(self.device):
            head = MLPHead(self._width(), hidden).to(device=self.device, dtype=self.dtype)
        self.head = head
        return head

    def stack(self) -> None:
        """Let towers of one geometry run as one network: the same features, with half as many launches of kernels.

        For accelerators: on a CPU it is a little slower. An ensemble on an accelerator does it by itself, when it gets there,
        unless `stacked` is False. It becomes an ensemble with stacked weights: towers, blocks and parameters that were taken
        from it before are no longer part of it. Towers with trained weights, hooks, or adapters in training mode go on one by
        one, and so do those that no other resembles; a line of the log at level DEBUG says so.
        """
        self.stacked = True
        self._restack()

    def unstack(self) -> None:
        """Let every tower run on its own, with its weights as they are now, so that it can be hooked, changed or taken out."""
        self.stacked = False
        self._unstack()

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """A context in which every tower runs on its own, and can be changed."""
        self._unstack()
        try:
            yield
        finally:
            self._restack()

    def _unstack(self) -> None:
        for stack in self.stacks:
            cast(Stack, stack).dissolve()
        if self.stacks:
            self.stacks = nn.ModuleList()

    def _restack(self) -> None:
        """Stack the towers if that is wanted and possible here."""
        if self.stacks:
            return
        wanted = self.device.type not in ("cpu", "meta") if self.stacked is None else self.stacked
        if not wanted:
            log.debug("towers run one by one, as wanted on '%s'", self.device)
            return
        branches = [cast(Branch, branch) for branch in self.branches]
        stacks = []
        for places in groups(branches):
            names = " + ".join(branches[place].config.name for place in places)
            if (reason := obstacle(branches[place] for place in places)) is not None:
                log.debug("%s run one by one: %s", names, reason)
                continue
            log.debug("%s run as one network", names)
            stack = Stack(branches, places)
            for place, branch in zip(stack.places, stack.branches, strict=True):
                branches[place] = branch
            stacks.append(stack)
        if stacks:
            self.branches, self.stacks = nn.ModuleList(branches), nn.ModuleList(stacks)

    def _apply(self, fn: Any, recurse: bool = True) -> Ensemble:
        super()._apply(fn, recurse)
        self._restack()  # it may have come to an accelerator
        return self

    def train(self, mode: bool = True) -> Ensemble:
        """Set the mode; adapters with dropout act in training mode, and only in towers that run one by one."""
        if mode and any(hasattr(module, "lora_A") for module in self.stacks.modules()):
            self._unstack()
        super().train(mode)
        if not mode:
            self._restack()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of the towers one by one. The weights of stacked towers are copies."""
        state = super().state_dict(*args, **kwargs)
        prefix = args[1] if len(args) > 1 else kwargs.get("prefix", "")
        copied = not (args[2] if len(args) > 2 else kwargs.get("keep_vars", False))
        for key in [key for key in state if key.startswith(f"{prefix}stacks.")]:
            del state[key]
        for stack in self.stacks:
            for place, name, row in cast(Stack, stack).rows(copied):
                state[f"{prefix}branches.{place}.backbone.blocks.{name}"] = row
        return state

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._unstack()  # the names that are to be loaded; stacked again when all are
        super()._load_from_state_dict(*args, **kwargs)

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

    def forward(self, images: Image, squash: bool = True, adapters: Names | None = None) -> Tensor:
        """Concatenated features of images `(b, 3, h, w)`.

        squash: True resizes them to the square of each branch, False passes them on at their own size.
        adapters: of several names, one is for each image, or all are for a single image; one name is for all images, and None
            in place of a name is for the towers without adapter. By default the active adapter is used.

        Raises ValueError for another number of adapters, and for adapters in other towers than plain Vision Transformers.
        """
        if adapters is not None and len(adapters) > 1:
            if images.shape[0] not in (1, len(adapters)):
                raise ValueError(
                    f"one adapter for each image is needed, got {len(adapters)} for {images.shape[0]} images."
                )
            images = images.expand(len(adapters), -1, -1, -1)
        sizes = [config.image_size for config in self.configs]
        resized = {size: resize(images, (size, size)) if squash else images for size in set(sizes)}
        scale = LossScale() if self._scales_gradients() else None
        if scale is not None:
            resized = {size: scale.images(image) for size, image in resized.items()}
        by_place: dict[int, Tensor] = {}
        for module in self.stacks:
            stack = cast(Stack, module)
            by_place.update(zip(stack.places, stack(resized[stack.image_size], adapters), strict=True))
        features = [
            by_place[place] if place in by_place else branch(resized[size], adapters)
            for place, (branch, size) in enumerate(zip(self.branches, sizes, strict=True))
        ]
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


def _restack(ensemble: Ensemble, _: object) -> None:
    ensemble._restack()
