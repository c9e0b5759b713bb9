"""Several branches side by side: their features, concatenated.

In the original a branch's weight in the metric is the squared length of its feature vector, since nothing is normalised before
the concatenation. Branches with an explicit weight are centred and scaled to length one first:

    e = concat_i sqrt(w_i / sum w) unit(centre(f_i)),     d = sum_i w_i d_i / sum w

Branches that keep maps (`spatial=True`) join the unit vectors of all positions in the same way, see `maps.py`.
The optional head is the original's other way of tuning: one residual MLP on the concatenated, frozen features.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.distance import centre, unit
from dreamsim_guidance.metric.loss_scale import LossScale, computes_in_float16
from dreamsim_guidance.metric.low_rank import Names
from dreamsim_guidance.metric.maps import join_maps, shares
from dreamsim_guidance.metric.stackable import groups, obstacle
from dreamsim_guidance.metric.stacked import Stack, without_blocks
from dreamsim_guidance.metric.vit import stream
from dreamsim_guidance.preprocess import resize
from dreamsim_guidance.tracing import transforms_active
from dreamsim_guidance.types import AnyImage, Embedding, Image, Map, Mask, Squares

__all__ = ["Ensemble", "MLPHead", "building_for"]

log = logging.getLogger(__name__)


def building_for(device: torch.device | str) -> torch.device:
    """A context in which modules that shall go to `device` are built, whatever PyTorch's default device is.

    On the CPU, so that random weights are the same for every accelerator, and on "meta" for "meta".
    """
    return torch.device("meta" if torch.device(device).type == "meta" else "cpu")


class MLPHead(nn.Module):
    """`W2 relu(W1 x) + x` on features `(b, d)`, with `hidden` units between (512 in the paper's configurations).

    scale: factor of the features before all else, by default 1. The distance does not depend on it, but training does: features
        that were scaled to length one have entries far below one.

    Attribute `dropout`, by default 0: the share of the dimensions of x that are left out in training mode, the same ones for
    all features of a call, so that the distances are those in the remaining dimensions.
    """

    def __init__(self, features: int, hidden: int = 512, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.dropout = scale, 0.0
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Embedding) -> Embedding:
        x = x.to(self.fc1.weight.dtype) * self.scale
        if self.training and self.dropout:
            x = x * F.dropout(torch.ones_like(x[:1]), self.dropout)
        return self.fc2(F.relu(self.fc1(x))) + x


class Ensemble(nn.Module):
    """Branches and a head, as a function from RGB images in [0, 1] to `(b, d)`, or `(b, 1 + n, d)` with patch tokens.

    branches: at least one `Branch` or `BranchConfig`; a config is built with random weights.
    hidden: width of an `MLPHead` behind the features; None for no head.

    Towers of one geometry can run as one network, see `stack` and `unstack`. `named_parameters` then has stacked weights, while
    `state_dict` and `load_state_dict` keep the names and shapes of the towers one by one. What needs both to agree has to have
    the towers one by one: FSDP, `torch.distributed.checkpoint.state_dict`, `torch.func.functional_call` with a `state_dict`.

    Raises TypeError for anything but a list of branches, ValueError for an empty one, for branches with patch tokens or maps
    beside branches without, for branches with an explicit weight beside branches without, and for a head behind maps.
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
        weights = [branch.config.explicit_weight for branch in modules]
        if len({branch.config.spatial for branch in modules}) > 1:
            raise ValueError(
                "spatial=True must be set for all branches or for none; maps and vectors cannot be joined."
            )
        if len({weight is None for weight in weights}) > 1:
            names = ", ".join(b.config.name for b, weight in zip(modules, weights, strict=True) if weight is None)
            raise ValueError(
                f"all branches need an explicit weight or none: {names} have none, and would count with the length of their "
                "features; give them weight=1.0 (branches with layers or maps have it by default)."
            )
        self.branches = nn.ModuleList(modules)
        self.stacks = nn.ModuleList()
        self.stacked: bool | None = None
        """Whether towers are to run as one network, from the next change on: None for as soon as they are on an accelerator."""
        self._register_state_dict_hook(_name_rows)
        self.register_load_state_dict_post_hook(_restack)
        self.head: MLPHead | None = None
        if hidden is not None:
            self.attach_head(hidden)

    def attach_head(self, hidden: int = 512, identity: bool = False) -> MLPHead:
        """Put a fresh, trainable head of `hidden` units behind the features, in place of an earlier one.

        identity: its output layer is zero, so that it changes nothing yet.

        Raises ValueError for an ensemble of maps.
        """
        if self.spatial:
            raise ValueError(
                "a head works on one vector for each image, and spatial=True keeps maps; leave one of them out."
            )
        self.head = None
        with self.one_by_one(), building_for(self.device):
            width = self._width()
            # branches with explicit weights make vectors of length one; the head sees entries with a mean square of one
            head = MLPHead(width, hidden, 1.0 if self.shares is None else width**0.5)
            head.to(device=self.device, dtype=self.dtype)
        if identity:
            nn.init.zeros_(head.fc2.weight)
            nn.init.zeros_(head.fc2.bias)
        self.head = head
        return head

    def stack(self) -> None:
        """Let towers of one geometry run as one network: the same features, with half as many launches of kernels.

        For accelerators: on a CPU it is a little slower. An ensemble does it by itself when it comes to an accelerator, unless
        `stacked` is False, and stays so. It then has stacked weights of its own: towers, blocks and parameters that were taken
        from it before are no longer part of it, and keep their memory as long as something holds them. Towers that have no
        equal, trained or sharded weights, hooks, replaced forwards, or adapters in training mode go on one by one; lines of the
        log at level DEBUG say so.

        Not to be called while other threads use the ensemble.
        """
        self.stacked = True
        self._unstack()
        self.restack()

    def unstack(self) -> None:
        """Let every tower run on its own, with its weights as they are now, so that it can be hooked, changed or taken out."""
        self.stacked = False
        self._unstack()

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """A context in which every tower runs on its own, and can be changed."""
        wanted, self.stacked = self.stacked, False
        self._unstack()
        try:
            yield
        finally:
            self.stacked = wanted
            self.restack()

    def _unstack(self) -> None:
        for stack in self.stacks:
            cast(Stack, stack).dissolve([cast(Branch, branch) for branch in self.branches])
        if self.stacks:
            self.stacks = nn.ModuleList()

    def restack(self) -> None:
        """Stack the towers if that is wanted and possible here and now, and not done already."""
        wanted = self.device.type not in ("cpu", "meta") if self.stacked is None else self.stacked
        if self.stacks or not wanted:
            return
        branches = [cast(Branch, branch) for branch in self.branches]
        stacks = []
        for places in groups(branches):
            names = " + ".join(branches[place].config.name for place in places)
            if len(places) == 1:
                reason: str | None = "no other tower has its geometry, or its layers are not the usual ones"
            else:
                reason = obstacle(branches[place] for place in places)
            if reason is None:
                log.debug("%s: as one network", names)
                stack = Stack(branches, places)
                for place in places:
                    branches[place] = without_blocks(branches[place])
                stacks.append(stack)
            else:
                log.debug("%s: one by one, %s", names, reason)
        if stacks:
            self.branches, self.stacks = nn.ModuleList(branches), nn.ModuleList(stacks)

    def _apply(self, fn: Any, recurse: bool = True) -> Ensemble:
        self.restack()  # so that what is stacked is converted or shared like the rest
        super()._apply(fn, recurse)
        self.restack()  # it may have come to an accelerator
        return self

    def train(self, mode: bool = True) -> Ensemble:
        """Set the mode; in training mode, towers whose adapters have dropout run one by one."""
        if mode and any(cast(Stack, stack).has_dropout for stack in self.stacks):
            self._unstack()
        super().train(mode)
        if not mode:
            self.restack()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Load the weights of stacked towers into the stack, in place, if all are there; else into towers one by one."""
        rows: dict[str, list[str]] = {}
        complete = True
        for i, module in enumerate(self.stacks):
            stack = cast(Stack, module)
            for name, parameter in stack.blocks.named_parameters():
                keys = [prefix + key for key in stack.keys(name)]
                rows[f"{prefix}stacks.{i}.blocks.{name}"] = keys
                complete &= all(getattr(state_dict.get(key), "shape", None) == parameter.shape[1:] for key in keys)
        if complete:
            for name, keys in rows.items():
                state_dict[name] = torch.stack([state_dict.pop(key) for key in keys])
        else:
            self._unstack()  # stacked again when all is loaded
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def configs(self) -> tuple[BranchConfig, ...]:
        return tuple(branch.config for branch in self.branches)  # type: ignore[misc]

    @property
    def has_patches(self) -> bool:
        """Whether the output holds patch tokens."""
        return self.configs[0].has_patches

    @property
    def spatial(self) -> bool:
        """Whether the output holds the vectors of all positions."""
        return self.configs[0].spatial

    @property
    def shares(self) -> list[float] | None:
        """The explicit weight of each branch, as its share of the distance; None if features are joined as they are."""
        weights = [config.explicit_weight for config in self.configs]
        numbers = [weight for weight in weights if weight is not None]
        return shares(numbers) if numbers else None

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self,
        images: Image | Squares,
        squash: bool = True,
        adapters: str | Names | None = None,
        mask: Mask | None = None,
    ) -> Tensor:
        """Concatenated features of images `(b, 3, h, w)`.

        images: or the same images squashed to the square of each branch already, by its side.
        squash: True resizes them to the square of each branch, False passes them on at their own size.
        adapters: the name of an attached adapter for all images, or several: one for each image, or all of them for a single
            image; None in place of a name is for the towers without adapter. They act without dropout. By default the active
            adapter is used.
        mask: `(1 or b, 1, h, w)` of any size, for maps only: how much each position counts.

        Raises ValueError for adapters that are not attached, and for another number of them. Towers other than plain Vision
        Transformers are switched to the adapters for the time of the call, which is therefore not thread-safe.
        """
        images, names, scale = self._prepared(images, adapters)
        if self.spatial:
            x = join_maps(self._maps(images, squash, names, scale), mask)
            return x if scale is None else scale.features(x)
        resized = self._resized(images, squash, scale)
        by_place: dict[int, Tensor] = {}
        for module in self.stacks:
            stack = cast(Stack, module)
            towers = [cast(Branch, self.branches[place]) for place in stack.places]
            by_place.update(zip(stack.places, stack(towers, resized[towers[0].config.image_size], names), strict=True))
        features = [
            by_place[place] if place in by_place else branch(resized[config.image_size], names)
            for place, (branch, config) in enumerate(zip(self.branches, self.configs, strict=True))
        ]
        if len({f.shape[1] for f in features}) > 1 and self.has_patches:
            raise ValueError(
                f"patch branches must have one grid, got {[f.shape[1] - 1 for f in features]} patches; "
                "choose image sizes that give the same grid."
            )
        if (shares := self.shares) is not None:
            features = [s**0.5 * unit(centre(stream(f))) for s, f in zip(shares, features, strict=True)]
        x = torch.cat(features, dim=-1)
        if self.head is not None:
            x = self.head(x)
        return x if scale is None else scale.features(x)

    def maps(self, images: Image, squash: bool = True, adapters: str | Names | None = None) -> list[Map]:
        """Of an ensemble of maps: the map of every layer of every branch, scaled by the square root of its share.

        Arguments and errors as in `forward`.
        """
        prepared, names, scale = self._prepared(images, adapters)
        maps = self._maps(prepared, squash, names, scale)
        return maps if scale is None else [scale.features(x) for x in maps]

    def _maps(self, images: Image | Squares, squash: bool, names: Names | None, scale: LossScale | None) -> list[Map]:
        resized = self._resized(images, squash, scale)
        branches = [cast(Branch, branch) for branch in self.branches]
        shares = cast("list[float]", self.shares)
        return [
            share**0.5 * x
            for share, branch in zip(shares, branches, strict=True)
            for x in branch.maps(resized[branch.config.image_size], names)
        ]

    def _prepared(
        self, images: Image | Squares, adapters: str | Names | None
    ) -> tuple[AnyImage | Squares, Names | None, LossScale | None]:
        """Images as many as the adapters that are chosen for the call, these adapters, and the scale of the gradients."""
        names = self._names(adapters)
        if names is not None and len(names) > 1 and isinstance(images, Tensor):
            if images.shape[0] not in (1, len(names)):
                raise ValueError(
                    f"one adapter for each image is needed, got {len(names)} for {images.shape[0]} images."
                )
            images = images.expand(len(names), -1, -1, -1)
        scale = LossScale() if self._scales_gradients() else None
        return images, names, scale

    def _resized(self, images: Image | Squares, squash: bool, scale: LossScale | None) -> Mapping[int, Tensor]:
        if not isinstance(images, Tensor):
            resized: Mapping[int, Tensor] = images
        else:
            sizes = {config.image_size for config in self.configs}
            resized = {size: resize(images, (size, size)) if squash else images for size in sizes}
        return resized if scale is None else {size: scale.images(image) for size, image in resized.items()}

    def _names(self, adapters: str | Names | None) -> Names | None:
        """Adapters that are chosen for a call as a sequence, all of them attached."""
        names = (adapters,) if isinstance(adapters, str) else adapters
        if names is not None and not names:
            raise ValueError("adapters must name at least one, got an empty list; leave it out for the active one.")
        for name in dict.fromkeys(names or ()):
            if name is not None:
                self.need_adapter(name)
        return names

    def need_adapter(self, name: str) -> None:
        """Raise ValueError unless an adapter of this name is attached."""
        attached = getattr(self, "peft_config", {})
        if name not in attached:
            names = ", ".join(attached) or "none (a folded adapter is part of the weights)"
            raise ValueError(f"no adapter '{name}' is attached; attached: {names}.")

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
    ensemble.restack()


def _name_rows(ensemble: Ensemble, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Give the weights of stacked towers, in a `state_dict`, the names of the towers one by one: copies of their rows."""
    for i, module in enumerate(ensemble.stacks):
        stack = cast(Stack, module)
        for name, _parameter in stack.blocks.named_parameters():
            stacked = state.pop(f"{prefix}stacks.{i}.blocks.{name}")
            kept = isinstance(stacked, nn.Parameter)  # keep_vars=True
            for key, row in zip(stack.keys(name), stacked.unbind(0), strict=True):
                state[prefix + key] = row if kept else row.clone()
    metadata = getattr(state, "_metadata", {})
    for name in [name for name in metadata if name.startswith(f"{prefix}stacks")]:
        del metadata[name]
