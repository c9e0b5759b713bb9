"""Which towers can run as one network: those of one geometry, made of the usual layers, that nothing else works on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, cast

from timm.layers.activations import QuickGELU
from timm.layers.drop import DropPath
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block, LayerScale
from torch import nn

from dreamsim_guidance.metric.backbones import Branch

__all__ = ["active", "base", "drops", "groups", "has_hooks", "obstacle"]

_NORMS = (nn.LayerNorm, LayerNorm)


def groups(branches: Iterable[Branch]) -> list[list[int]]:
    """The places of all branches, those of one geometry together; a branch that cannot be stacked is alone."""
    places: dict[Hashable, list[int]] = {}
    for place, branch in enumerate(branches):
        geometry = _geometry(branch)
        places.setdefault(place if geometry is None else geometry, []).append(place)
    return list(places.values())


def obstacle(branches: Iterable[Branch]) -> str | None:
    """Why these towers have to run one by one now, in words; None if they need not."""
    for branch in branches:
        for module in branch.modules():
            if has_hooks(module):
                return f"a layer of '{branch.config.name}' has a hook"
            if module.training and drops(module):
                return f"'{branch.config.name}' has an adapter in training mode"
        for parameter in branch.parameters():
            if parameter.requires_grad:
                return f"weights of '{branch.config.name}' are trained"
            if hasattr(parameter, "device_mesh"):  # DTensor, which may not be importable
                return f"weights of '{branch.config.name}' are sharded"
    return None


def has_hooks(module: nn.Module) -> bool:
    """Whether calling this module runs anything else than its class's forward."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(hooks) or "forward" in vars(module)


def drops(layer: nn.Module) -> bool:
    """Whether a layer has adapters with dropout."""
    return hasattr(layer, "lora_dropout") and any(getattr(d, "p", 0) for d in layer.lora_dropout.values())  # type: ignore[union-attr, operator]


def _geometry(branch: Branch) -> Hashable | None:
    """What branches must have in common to be stacked; None for a branch that cannot be stacked at all."""
    if (
        type(branch) is not Branch
        or not branch.plain
        or branch.config.feature == "pooled"
        or branch.config.reads_layers
    ):
        return None
    model: Any = branch.backbone
    if (
        hasattr(model.patch_embed.proj, "lora_A")
        or not all(map(_is_usual, model.blocks))
        or len({type(block.mlp.act) for block in model.blocks}) > 1
    ):
        return None
    adapted = [layer for block in model.blocks for layer in _layers(block) if hasattr(layer, "lora_A")]
    return (
        branch.config.image_size,
        branch.config.has_patches,
        branch.dtype,
        tuple(model.pos_embed.shape),
        tuple(model.patch_embed.proj.weight.shape),
        model.blocks[0].attn.num_heads,
        tuple((name, tuple(parameter.shape)) for name, parameter in model.blocks.named_parameters()),
        tuple((tuple(sorted(layer.scaling.items())), active(layer)) for layer in adapted),
    )


def _is_usual(block: Any) -> bool:
    """Whether a block is made of the layers that a stack knows, none of them wrapped."""
    if type(block) is not Block:
        return False
    dropouts = (block.attn.attn_drop, block.attn.proj_drop, block.mlp.drop1, block.mlp.drop2)
    paths = (block.drop_path1, block.drop_path2)
    return (
        all(_is_linear(layer) and (base(layer).bias is not None or layer is block.attn.qkv) for layer in _layers(block))
        and all(isinstance(norm, nn.LayerNorm) and type(norm) in _NORMS for norm in (block.norm1, block.norm2))
        and all(norm.bias is not None for norm in (block.norm1, block.norm2))
        and all(type(scale) in (LayerScale, nn.Identity) for scale in (block.ls1, block.ls2))
        and not any(isinstance(layer, (nn.Dropout, DropPath)) and layer.p for layer in (*dropouts, *paths))
        and (
            type(block.mlp.act) is QuickGELU or (type(block.mlp.act) is nn.GELU and block.mlp.act.approximate == "none")
        )
    )


def _layers(block: Any) -> tuple[Any, ...]:
    """The linear layers of a block."""
    return block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2


def base(layer: Any) -> Any:
    """The linear layer below adapters, or the layer itself."""
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def _is_linear(layer: Any) -> bool:
    """Whether it is a linear layer, or one with plain low-rank adapters, one of them active, that are not merged into it."""
    if type(layer) is nn.Linear:
        return True
    plain = hasattr(layer, "lora_A") and type(base(layer)) is nn.Linear and not layer.merged
    variants = any(layer.use_dora.values()) or any(getattr(layer, "lora_bias", {}).values()) or layer.lora_embedding_A
    return plain and not variants and len(layer.active_adapters) == 1


def active(layer: Any) -> str | None:
    """The active adapter of peft's layer; None if adapters are switched off."""
    return None if layer.disable_adapters else cast(str, layer.active_adapters[0])
