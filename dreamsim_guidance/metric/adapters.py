"""Low-rank adapters on linear layers and convolutions, through peft.

    W <- W + (alpha / r) B A

In a convolution A has the layer's own kernel, stride, padding and dilation, and B is pointwise.

Adapters are attached to an `Ensemble` under names, trained, swapped, saved, and folded into the weights. `adapter_targets.py`
says which layers take one, `adapter_files.py` how they are stored.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamsim_guidance.metric.adapter_files import peft, read_adapter, write_adapter
from dreamsim_guidance.metric.adapter_targets import check_targets, default_targets, is_adapted
from dreamsim_guidance.metric.ensemble import Ensemble, building_for

__all__ = [
    "adapter_names",
    "attach_adapter",
    "default_targets",
    "fold_adapters",
    "load_adapter",
    "save_adapter",
    "set_adapter",
]


def attach_adapter(
    ensemble: Ensemble,
    rank: int = 16,
    alpha: float = 8.0,
    dropout: float = 0.3,
    targets: Sequence[str] | None = None,
    name: str = "default",
) -> None:
    """Attach a fresh, trainable adapter (B = 0: the embedding does not change yet) and make it the active one.

    rank: r, at least 1. alpha: numerator of the scale alpha / r. dropout: probability, in training mode only. The defaults
        are the original's training configuration of the ensemble.
    targets: last parts of the names of the layers that are tuned, such as ("qkv", "attn.proj"); by default
        `default_targets(ensemble)`, which are ("qkv",) for the published variants.
    name: letters, digits and underscores.

    All other parameters stay frozen. An adapter on the patch embedding of a plain Vision Transformer acts without dropout.
    Raises ValueError for a rank below 1, a name that is taken or has other characters, and targets that match no layer or any
    module that cannot take an adapter: see `adapter_targets.check_targets`.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
    targets = default_targets(ensemble) if targets is None else targets
    config = peft().LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets))
    with ensemble.one_by_one():
        _inject(ensemble, config, name)
        set_adapter(ensemble, name, trainable=True)


def load_adapter(ensemble: Ensemble, folder: str | os.PathLike[str], name: str = "default") -> None:
    """Attach the adapter in a peft folder, ours or the original's, frozen, and make it the active one.

    Raises FileNotFoundError for a folder without the two files, ValueError for an adapter that is damaged or does not fit the
    ensemble, and for a name that is taken.
    """
    with ensemble.one_by_one():
        options, tensors = read_adapter(ensemble, Path(folder))
        _inject(ensemble, peft().LoraConfig(**options), name)
        for key, value in _adapter_tensors(ensemble, name).items():
            value.copy_(tensors[key])
        set_adapter(ensemble, name)


def save_adapter(ensemble: Ensemble, folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Write an adapter, by default the active one, as a peft folder that the original package loads too.

    Raises ValueError if there is no such adapter or it has no values (the device "meta"), OSError if it cannot be written.
    """
    name = name or _active(ensemble)
    ensemble.need_adapter(name)
    if ensemble.device.type == "meta":
        raise ValueError("an adapter on the device 'meta' has no values to be written; build the model on another.")
    config = ensemble.peft_config[name].to_dict()  # type: ignore[operator, union-attr, index]
    write_adapter(Path(folder), config, _adapter_tensors(ensemble, name))


def adapter_names(ensemble: Ensemble) -> list[str]:
    """The names of the adapters that are attached and not folded."""
    return list(getattr(ensemble, "peft_config", {}))


def set_adapter(ensemble: Ensemble, name: str | None, trainable: bool = False) -> None:
    """Make one adapter the active one, or with None no adapter (the un-tuned ensemble). Frozen unless `trainable`.

    Towers that run as one network go on so, unless the adapter is `trainable`.
    """
    if name is not None:
        ensemble.need_adapter(name)
    with ensemble.one_by_one() if trainable else nullcontext():
        for stack in ensemble.stacks:
            stack.set_adapter(name)  # type: ignore[operator]
        for layer in _layers(ensemble):
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for key, parameter in ensemble.named_parameters():
            if ".lora_" in key:
                parameter.requires_grad_(trainable and name is not None and _is_of(key, name))
    ensemble.restack()  # an adapter that was trained may be frozen now


def fold_adapters(ensemble: Ensemble) -> bool:
    """Add the active adapter to the weights and remove all adapters: the same embedding for less work.

    Returns whether an adapter was active. The embedding changes by rounding only (below 1e-6 in float64). Folding cannot be
    undone: save adapters first.
    """
    folded = False
    with ensemble.one_by_one():
        for layer_name, layer in [(n, m) for n, m in ensemble.named_modules() if is_adapted(m)]:
            if not layer.disable_adapters:
                layer.merge(adapter_names=list(layer.active_adapters))
                folded = True
            parent, _, child = layer_name.rpartition(".")
            setattr(ensemble.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(ensemble, "peft_config"):
            del ensemble.peft_config
        ensemble.requires_grad_(False)
    return folded


def _inject(ensemble: Ensemble, config: Any, name: str) -> None:
    if name in adapter_names(ensemble):
        raise ValueError(f"an adapter named '{name}' is attached already; choose another name.")
    if not re.fullmatch(r"\w+", name) or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"an adapter's name has letters, digits and underscores only, and is no method of a module, got '{name}'."
        )
    check_targets(ensemble, sorted(config.target_modules))
    before = {key: parameter.requires_grad for key, parameter in ensemble.named_parameters()}
    head, ensemble.head = ensemble.head, None  # so that "fc1" is a layer of towers only
    try:
        with warnings.catch_warnings(), building_for(ensemble.device):
            # peft warns that the model has a peft_config already: several adapters side by side are intended
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            peft().inject_adapter_in_model(config, ensemble, adapter_name=name)
    except ValueError as error:
        raise ValueError(
            f"no layer of this ensemble is named {sorted(config.target_modules)} ({error}); choose the names of linear layers "
            "or convolutions in its backbones, e.g. 'qkv', 'attn.proj', 'fc1', 'conv_pw'."
        ) from error
    finally:
        ensemble.head = head
    for layer in _layers(ensemble):
        _share_geometry(layer, name)
    ensemble.train(ensemble.training)  # new modules start in training mode, where their dropout acts
    for key, parameter in ensemble.named_parameters():
        parameter.requires_grad_(before.get(key, False) and ".lora_" in key)
        if ".lora_" in key:  # peft makes them in float32 or the default dtype; the ensemble may have another
            parameter.data = parameter.data.to(ensemble.dtype)


def _share_geometry(layer: Any, name: str) -> None:
    """Give an adapter's first convolution the dilation and kind of padding of its layer, which peft leaves out."""
    base = layer.get_base_layer()
    if isinstance(base, nn.Conv2d) and name in layer.lora_A:
        for attribute in ("dilation", "padding_mode", "_reversed_padding_repeated_twice"):
            setattr(layer.lora_A[name], attribute, getattr(base, attribute))


def _layers(ensemble: Ensemble) -> list[Any]:
    """peft's layers, also those that wait for their weights in the skeletons of stacked towers."""
    skeletons = (skeleton.modules() for stack in ensemble.stacks for skeleton in stack.skeletons)  # type: ignore[union-attr]
    return [module for module in chain(ensemble.modules(), *skeletons) if is_adapted(module)]


def _active(ensemble: Ensemble) -> str:
    for layer in _layers(ensemble):
        return layer.active_adapters[0]
    raise ValueError("this ensemble has no adapter; attach or load one first (adapters that were folded are gone).")


def _is_of(key: str, name: str) -> bool:
    """Whether a parameter's key is that of the adapter `name`."""
    return any(f".lora_{which}.{name}." in key for which in "AB")


def _adapter_tensors(ensemble: Ensemble, name: str) -> dict[str, Tensor]:
    """The adapter's values by names without its own: `branches.0.backbone.blocks.0.attn.qkv.lora_A.weight`."""
    tensors = {key: parameter.detach() for key, parameter in ensemble.named_parameters()}
    for stack in ensemble.stacks:
        tensors |= dict(stack.rows())  # type: ignore[union-attr, operator]
    part = re.compile(rf"(\.lora_[AB])\.{re.escape(name)}\.")
    return {part.sub(r"\1.", k): t for k, t in tensors.items() if k.startswith("branches.") and part.search(k)}
