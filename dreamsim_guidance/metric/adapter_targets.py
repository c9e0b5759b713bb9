"""Which layers of an ensemble's towers take a low-rank adapter, and which of them get one by default.

An adapter computes `B A x` beside a layer's `W x`, and is later added to W. Both give the same numbers only where the layer is
linear in its weight and is called: not in a convolution with standardised weights, nor where a tower reads the weight of a
layer and multiplies by itself, as `nn.MultiheadAttention` and BEiT do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

if TYPE_CHECKING:
    from dreamsim_guidance.metric.backbones import Branch
    from dreamsim_guidance.metric.ensemble import Ensemble

__all__ = ["check_targets", "default_targets", "is_adapted", "is_target", "layers_of", "obstacle"]

_PACKED = {"qkv", "qkv_proj", "to_qkv", "Wqkv", "query_key_value"}
_SEPARATE = {
    *("q", "k", "v", "qk", "kv", "q_proj", "k_proj", "v_proj", "kv_proj", "to_q", "to_k", "to_v", "to_kv"),
    *("query", "key", "value", "to_query", "to_key", "to_value", "wq", "wk", "wv"),
}
_MLP = {"ffn", "ff", "feed_forward"}


def default_targets(ensemble: Ensemble) -> tuple[str, ...]:
    """The layers that `attach_adapter` tunes by default, as last parts of their names.

    For each tower, the first of these that it has:

    - its packed projections to queries, keys and values ("qkv"), as in the original;
    - its separate projections to queries, keys and values;
    - the linear layers of its MLP blocks, and its convolutions, pointwise or with larger kernels, except convolutions in groups
      (depthwise ones), the patch embedding, and the stem: what reads the image or has "stem" in its name. These are the layers
      of convolutional networks, and of transformers whose attention reads its weights directly, such as open_clip's.

    Layers that the tower does not call, or that take no adapter, are left out. The names are as short as possible without
    matching any other module of any tower. Towers other than plain Vision Transformers are run once, on one image.

    Raises ValueError for a tower without such layers.
    """
    with ensemble.one_by_one():
        chosen: list[str] = []
        for place, branch in enumerate(cast("list[Branch]", list(ensemble.branches))):
            names = _default_layers(branch)
            if not names:
                raise ValueError(
                    f"branch '{branch.config.name}' ('{branch.config.architecture}') has no layers that get an adapter by "
                    "default; name some with targets=(...), or train a head."
                )
            chosen += [f"branches.{place}.{name}" for name in names]
        return _shortest(chosen, [name for name, _ in ensemble.named_modules() if not _is_inside_adapter(name)])


def check_targets(ensemble: Ensemble, targets: Sequence[str]) -> None:
    """Raise ValueError unless every module that `targets` match in any tower can take an adapter.

    The patch embedding takes one only if its name is given in full: "proj" is refused, "patch_embed.proj" is not. The towers
    must run one by one.
    """
    for place, branch in enumerate(cast("list[Branch]", list(ensemble.branches))):
        prefix = f"branches.{place}."
        matched = {
            name: module
            for name, module in branch.named_modules()
            if is_target(prefix + name, targets) and not _is_inside_adapter(name)
        }
        unused = _without_effect(branch) if matched else ()
        for name, module in matched.items():
            reason = obstacle(prefix + name, module, targets)
            if reason is None and name in unused:
                reason = "the tower does not call this layer, but at most reads its weight, so that an adapter would do nothing"
            if reason is not None:
                raise ValueError(
                    f"an adapter goes on linear layers and convolutions, and {sorted(targets)} match '{prefix}{name}', a "
                    f"{type(_base(module)).__name__}; {reason}. Give more of the names of the layers that you mean, such as "
                    "'attn.proj' instead of 'proj'."
                )


def layers_of(ensemble: Ensemble, targets: Sequence[str]) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Name and module of each layer of the towers that `targets` match and that can take an adapter, below any adapters."""
    for name, module in ensemble.named_modules():
        in_tower = name.startswith("branches.") and not _is_inside_adapter(name)
        if in_tower and is_target(name, targets) and obstacle(name, module, targets) is None:
            yield name, _base(module)


def is_target(name: str, targets: Collection[str]) -> bool:
    """Whether peft applies an adapter for the layers `targets` to the module `name`: by its whole name, or its last parts."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is peft's wrapper of a layer with adapters."""
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


def obstacle(name: str, module: nn.Module, targets: Sequence[str]) -> str | None:
    """Why the module `name` that `targets` match takes no adapter, in words; None if it takes one."""
    layer = _base(module)
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        return "it is neither"
    if "patch_embed" in name.split(".") and not any(
        "patch_embed" in target for target in targets if is_target(name, [target])
    ):
        return "the patch embedding takes an adapter only if it is named in full, as 'patch_embed.proj'"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return f"it is a convolution in {layer.groups} groups, whose adapter peft cannot fold"
    if not isinstance(layer._parameters.get("weight"), nn.Parameter) or not _is_usual(layer):
        return "it computes the weight that it applies, so that an adapter could not be folded exactly"
    return None


def _is_usual(layer: nn.Linear | nn.Conv2d) -> bool:
    """Whether the layer applies its weight as it is, with a kind of padding that an adapter shares."""
    kind: Any = type(layer)
    if isinstance(layer, nn.Linear):
        return kind.forward is nn.Linear.forward
    return kind._conv_forward is nn.Conv2d._conv_forward and kind.forward in (nn.Conv2d.forward, Conv2dSame.forward)


def _default_layers(branch: Branch) -> list[str]:
    """Names within a branch, by the rules of `default_targets`."""
    called = _called(branch)
    names: dict[str, nn.Module] = {}
    for name, module in branch.named_modules():
        usable = obstacle(name, module, [name]) is None and "patch_embed" not in name
        if usable and (called is None or name in called) and not _is_inside_adapter(name):
            names[name] = _base(module)
    if called is None:
        layers = branch.config.layers
        count = len(branch.backbone.blocks) if layers is None else max(layers) + 1
        running = tuple(f"backbone.blocks.{block}." for block in range(count))
        names = {name: layer for name, layer in names.items() if name.startswith(running)}
    for group in (_PACKED, _SEPARATE):
        # the projection itself, or the convolution in a module that adds a norm: "attn.qkv", "query.proj"
        if attention := [name for name in names if group & set(name.split(".")[-2:])]:
            return attention
    linear = [name for name, layer in names.items() if isinstance(layer, nn.Linear)]
    mlp = [name for name in linear if any(part in _MLP or part.startswith("mlp") for part in name.split("."))]
    convolutions = [name for name, layer in names.items() if isinstance(layer, nn.Conv2d) and not _is_stem(name, layer)]
    return [name for name in names if name in {*(mlp or linear), *convolutions}]


def _is_stem(name: str, layer: nn.Conv2d) -> bool:
    return layer.in_channels == 3 or any("stem" in part for part in name.split("."))


def _without_effect(branch: Branch) -> set[str]:
    """Layers whose adapters would do nothing: not called, while the module that they belong to is."""
    called = _called(branch)
    names = {name for name, module in branch.named_modules() if isinstance(_base(module), (nn.Linear, nn.Conv2d))}
    if called is None:
        return {name for name in names if not name.startswith(("backbone.blocks.", "backbone.patch_embed."))}
    return {name for name in names - called if name.rpartition(".")[0] in called}


@torch.no_grad()
def _called(branch: Branch) -> set[str] | None:
    """Names of the modules that run for an image; None where the branch runs a plain transformer's layers by itself."""
    if branch.runs_blocks:
        return None
    called: set[str] = set()
    modes = {module: module.training for module in branch.modules()}
    hooks = [
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: called.add(name))
        for name, module in branch.named_modules()
    ]
    weight = next(branch.parameters())
    side = branch.config.image_size
    try:
        branch.eval()
        branch(torch.zeros(1, 3, side, side, dtype=weight.dtype, device=weight.device))
    except (RuntimeError, NotImplementedError):
        if weight.device.type != "meta":
            raise
        return {name for name, _ in branch.named_modules()}  # a tower that reads values cannot run without them
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return called


def _shortest(chosen: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The last parts of the `chosen` names that match no others of `names`, without repetition, in their order.

    Parts begin with a word, not with the number of a block.
    """
    owners: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            owners.setdefault(".".join(parts[start:]), set()).add(name)
    targets: dict[str, None] = {}
    wanted = set(chosen)
    for name in chosen:
        parts = name.split(".")
        endings = (".".join(parts[i:]) for i in reversed(range(3, len(parts))) if not parts[i].isdigit())
        targets[next((ending for ending in endings if owners[ending] <= wanted), name)] = None
    return tuple(targets)


def _base(module: Any) -> Any:
    """The layer below adapters, or the module itself."""
    return module.get_base_layer() if is_adapted(module) else module


def _is_inside_adapter(name: str) -> bool:
    """Whether a module's name is that of a part of peft's wrapper."""
    return ".base_layer" in name or ".lora_" in name
