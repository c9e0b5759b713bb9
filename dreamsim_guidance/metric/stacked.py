"""Towers of one geometry as one network: their weights stacked, `(k, ...)`, and their tokens, `(k, b, n, d)`.

Every matrix product of the k towers becomes one batched product, and attention runs over k * b images at once, so that a step
launches about half as many kernels. Each tower keeps its own norms, epsilons, activation, positions and projection. The results
are those of `vit.tokens` up to the order of summation.

A stack owns the weights of its blocks: a tower that is taken into one leaves its blocks there, and gets them back, as they are
then, when the stack is dissolved. Its layers have the names of timm's and peft's, so that row i of a stacked parameter is the
parameter of that name of the i-th tower.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NoReturn, cast

import torch
from timm.layers.activations import QuickGELU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dreamsim_guidance.metric import kernels, vit
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.metric.low_rank import LowRank, Names, add_adapters
from dreamsim_guidance.metric.stackable import active, base, drops, has_hooks
from dreamsim_guidance.tracing import transforms_active
from dreamsim_guidance.types import Image

__all__ = ["Stack", "without_blocks"]

_CURE = "call ensemble.unstack() first, and ensemble.stack() afterwards."


def _rows(modules: Sequence[nn.Module], name: str) -> nn.Parameter | None:
    """A parameter of each module, stacked `(k, ...)`; None if the modules have none of this name."""
    parameters = [module._parameters.get(name) for module in modules]
    if parameters[0] is None:
        return None
    return nn.Parameter(torch.stack(cast("list[Tensor]", parameters)), requires_grad=False)


class _Rows(nn.Module):
    """Stacked weights and biases of one layer in k towers."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight, self.bias = _rows(modules, "weight"), _rows(modules, "bias")

    def extra_repr(self) -> str:
        return f"weight={tuple(cast(Tensor, self.weight).shape)}"


class _Norm(_Rows):
    """A layer norm; weight and bias `(k, d)`."""

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__(modules)
        self.eps = tuple(float(module.eps) for module in modules)

    def forward(
        self, x: Tensor, y: Tensor | None, gamma: Tensor | None, y_bias: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """`x + gamma (y + y_bias)`, and its norm in `dtype`; see `kernels.add_norm`."""
        weight, bias = cast(Tensor, self.weight), cast(Tensor, self.bias)
        return kernels.add_norm(x, y, gamma, weight, bias, self.eps, dtype, y_bias)


class _Linear(_Rows):
    """A linear layer; weight `(k, out, in)`, bias `(k, out)` or None."""

    def forward(self, x: Tensor, names: Names | None = None) -> Tensor:
        """`x W^T` of tokens `(k, b, n, in)`; what comes next adds the bias."""
        return torch.bmm(x.flatten(1, 2), cast(Tensor, self.weight).mT).unflatten(1, x.shape[1:3])


class _Adapted(nn.Module):
    """A linear layer with adapters that are not folded, under peft's names."""

    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__()
        self.base_layer = _Linear([base(module) for module in modules])
        self.lora_A = nn.ModuleDict({n: _Rows([m.lora_A[n] for m in modules]) for n in modules[0].lora_A})
        self.lora_B = nn.ModuleDict({n: _Rows([m.lora_B[n] for m in modules]) for n in modules[0].lora_B})
        self.scaling: dict[str, float] = dict(modules[0].scaling)
        self.active = active(modules[0])

    @property
    def weight(self) -> Tensor | None:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor, names: Names | None = None) -> Tensor:
        """`base_layer(x)` with the adapters in `names`; None: with the active one."""
        y = self.base_layer(x)
        adapters = {
            name: LowRank(cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight), scale)
            for name, scale in self.scaling.items()
        }
        return add_adapters(y.flatten(1, 2), x, adapters, (self.active,) if names is None else names).view_as(y)


def _stacked(layers: Sequence[Any]) -> _Linear | _Adapted:
    return _Adapted(layers) if hasattr(layers[0], "lora_A") else _Linear(layers)


class _Attention(nn.Module):
    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__()
        self.heads: int = modules[0].num_heads
        self.qkv = _stacked([module.qkv for module in modules])
        self.proj = _stacked([module.proj for module in modules])

    def forward(self, x: Tensor, names: Names | None, class_only: bool) -> Tensor:
        """What attention adds to the tokens, without the bias of `proj`."""
        if class_only and isinstance(self.qkv, _Linear):
            return self.proj(self._class_token(x, self.qkv), names)
        y = kernels.attend(self.qkv(x, names), self.heads, self.qkv.bias)
        return self.proj(y[:, :, :1] if class_only else y, names)

    def _class_token(self, x: Tensor, qkv: _Linear) -> Tensor:
        """Attention of the class token alone, by the same products as `vit._attend_class`: `(k, b, n, d) -> (k, b, 1, d)`."""
        w_q, w_k, w_v = cast(Tensor, qkv.weight).unflatten(1, (3, self.heads, -1)).unbind(1)
        q = torch.einsum("kbd,khcd->kbhc", x[:, :, 0], w_q)
        b_v = None
        if qkv.bias is not None:
            b_q, _, b_v = qkv.bias[:, None].unflatten(2, (3, self.heads, -1)).unbind(2)  # (k, 1, h, c)
            q = q + b_q
        scores = torch.einsum("kbhd,kbnd->kbhn", torch.einsum("kbhc,khcd->kbhd", q * q.shape[-1] ** -0.5, w_k), x)
        y = torch.einsum("kbhn,kbnd->kbhd", vit.stream(scores).softmax(-1).to(x.dtype), x)
        y = torch.einsum("kbhd,khcd->kbhc", y, w_v)
        y = y if b_v is None else y + b_v
        return y.flatten(2)[:, :, None]


class _MLP(nn.Module):
    def __init__(self, modules: Sequence[Any]) -> None:
        super().__init__()
        self.quick = tuple(isinstance(module.act, QuickGELU) for module in modules)
        self.fc1, self.fc2 = (_stacked([getattr(module, name) for module in modules]) for name in ("fc1", "fc2"))

    def forward(self, x: Tensor, names: Names | None) -> Tensor:
        """What the MLP adds to the tokens, without the bias of `fc2`."""
        return self.fc2(kernels.activate(self.fc1(x, names), self.quick, self.fc1.bias), names)


class _Scale(nn.Module):
    """LayerScale; gamma `(k, d)`, or None without it."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.gamma = _rows(modules, "gamma")


class _Block(nn.Module):
    """The blocks of one depth.

    What a block's MLP adds to the tokens is added by the norm of the block behind it: one operation for both.
    """

    def __init__(self, blocks: Sequence[Any]) -> None:
        super().__init__()
        self.norm1, self.norm2 = (_Norm([getattr(block, name) for block in blocks]) for name in ("norm1", "norm2"))
        self.ls1, self.ls2 = (_Scale([getattr(block, name) for block in blocks]) for name in ("ls1", "ls2"))
        self.attn = _Attention([block.attn for block in blocks])
        self.mlp = _MLP([block.mlp for block in blocks])

    def forward(
        self, x: Tensor, y: Tensor | None, before: _Block | None, names: Names | None, class_only: bool
    ) -> tuple[Tensor, Tensor]:
        """The tokens behind attention, and what the MLP adds to them, before its bias and LayerScale.

        x: tokens `(k, b, n, d)` of the stream. y: what the MLP of the block `before` adds to them; None in the first.
        class_only: return the class token alone.
        """
        dtype = cast(Tensor, self.attn.qkv.weight).dtype
        added = (None, None) if before is None else (before.ls2.gamma, before.mlp.fc2.bias)
        x, z = self.norm1(x, y, *added, dtype)
        z = self.attn(z, names, class_only)
        x, z = self.norm2(x[:, :, :1] if class_only else x, z, self.ls1.gamma, self.attn.proj.bias, dtype)
        return x, self.mlp(z, names)

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """The tokens behind this block, where no other follows; x and y as `forward` returns them."""
        y = y.to(x.dtype) + cast(Tensor, self.mlp.fc2.bias)[:, None, None]
        return x + (y if self.ls2.gamma is None else y * self.ls2.gamma[:, None, None])


class _Elsewhere(nn.Module):
    """Stands where the blocks of a tower were that a stack has taken."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise RuntimeError(
            "this tower has no blocks of its own: it runs together with others as one network. ensemble.unstack() gives "
            "the towers back, to be called, hooked, loaded or changed one by one; DreamSim(..., stacked=False) never stacks "
            "them."
        )

    forward = __iter__ = __getitem__ = __len__ = _refuse

    def __bool__(self) -> bool:
        return False

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        if any(name.startswith(prefix) for name in state_dict):
            self._refuse()


def without_blocks(branch: Branch) -> Branch:
    """A branch with the same tensors, and without the blocks. The given one stays as it is."""
    outside = chain(branch.parameters(), branch.buffers(), [branch.config])
    return copy.deepcopy(branch, {id(branch.backbone.blocks): _Elsewhere(), **{id(part): part for part in outside}})


def _without_values(blocks: nn.Module) -> nn.Module:
    """A copy of the layers, whose parameters have shapes only."""
    return copy.deepcopy(blocks, {id(p): nn.Parameter(p.to("meta"), requires_grad=False) for p in blocks.parameters()})


class Stack(nn.Module):
    """The blocks of several branches of one geometry, called as one.

    branches: of the ensemble; they stay as they are, and their blocks' weights are copied.
    places: those that are stacked, at least two, as `groups` gives them.
    """

    def __init__(self, branches: Sequence[Branch], places: Sequence[int]) -> None:
        super().__init__()
        # GELU first, QuickGELU last: each activation is then one operation on neighbouring towers
        self.places = sorted(
            places, key=lambda place: isinstance(branches[place].backbone.blocks[0].mlp.act, QuickGELU)
        )
        towers = [branches[place].backbone.blocks for place in self.places]
        self.skeletons = tuple(map(_without_values, towers))
        """The layers of each tower's blocks, outside nn.Module's sight, for `dissolve`."""
        with torch.no_grad(), torch.inference_mode(False):
            self.blocks = nn.ModuleList(map(_Block, zip(*towers, strict=True)))

    @property
    def has_dropout(self) -> bool:
        """Whether there are adapters with dropout, which acts in training mode, in towers that run one by one."""
        return any(drops(module) for skeleton in self.skeletons for module in skeleton.modules())

    def keys(self, name: str) -> list[str]:
        """What the rows of the stacked parameter `name` of the blocks are called in an ensemble of towers one by one."""
        return [f"branches.{place}.backbone.blocks.{name}" for place in self.places]

    def rows(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters of the towers by their names in the ensemble; the values are views."""
        for name, parameter in self.blocks.named_parameters():
            yield from zip(self.keys(name), parameter.detach().unbind(0), strict=True)

    def set_adapter(self, name: str | None) -> None:
        """Make one adapter the active one, of the stack alone: `adapters.set_adapter` does it for the skeletons too."""
        for module in self.blocks.modules():
            if isinstance(module, _Adapted):
                module.active = name

    def dissolve(self, branches: Sequence[Branch]) -> None:
        """Give the blocks back to the branches of the ensemble."""
        stacked = dict(self.blocks.named_parameters())
        for i, (place, skeleton) in enumerate(zip(self.places, self.skeletons, strict=True)):
            with torch.inference_mode(False):
                values = {name: parameter.detach()[i].clone() for name, parameter in stacked.items()}
            skeleton.load_state_dict(values, assign=True)
            for name, parameter in skeleton.named_parameters():
                parameter.requires_grad_(stacked[name].requires_grad)
            branches[place].backbone.blocks = skeleton.train(branches[place].training)

    def forward(self, branches: Sequence[Branch], images: Image, names: Names | None = None) -> list[Tensor]:
        """The features of the towers, in the order of `places`, as `Branch.forward` gives them.

        branches: those in `places`, which embed the patches and read the feature.
        names: the adapter of all images, or one for each; None is the active one.

        Raises RuntimeError for branches with blocks of their own, and for hooks on the branches, which would not be called.
        """
        towers: list[Any] = [branch.backbone for branch in branches]
        for branch, tower in zip(branches, towers, strict=True):
            if not isinstance(tower.blocks, _Elsewhere):
                raise RuntimeError(f"'{branch.config.name}' was put in while towers run as one network; {_CURE}")
            if not torch.compiler.is_compiling() and (has_hooks(branch) or has_hooks(tower)):
                raise RuntimeError(
                    f"a hook on the tower of '{branch.config.name}' is not called while towers run as one network; {_CURE}"
                )
        scaled = cast(_Block, self.blocks[0]).ls1.gamma is not None
        x = torch.stack(vit.embed_patches(towers, images, [(branch.mean, branch.std) for branch in branches], scaled))
        recompute = any(tower.grad_checkpointing for tower in towers)
        recompute = recompute and torch.is_grad_enabled() and not transforms_active()
        y, before = None, None
        for i, module in enumerate(self.blocks):
            block = cast(_Block, module)
            arguments = x, y, before, names, not branches[0].config.has_patches and i == len(self.blocks) - 1
            x, y = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
            before = block
        assert before is not None and y is not None
        tokens = before.finish(x, y).unbind(0)
        return [branch.read(tower_tokens) for branch, tower_tokens in zip(branches, tokens, strict=True)]
