"""Low-rank adapters on the packed qkv of every block, through peft.

    W <- W + (alpha / r) B A

Adapters are attached to an `Ensemble` under names, trained, swapped, saved, and folded into the weights. On disk they have
the original's layout (one peft folder over all branches), so that either package reads what the other wrote; rank and
alpha always come from that folder's own JSON.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.metric.assembly import difference
from dreamsim_guidance.metric.ensemble import Ensemble, building_for

__all__ = [
    "adapter_names",
    "attach_adapter",
    "fold_adapters",
    "load_adapter",
    "read_adapter",
    "save_adapter",
    "set_adapter",
]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_KNOWN = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora"),  # read
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),  # labels
    *(
        "inference_mode",
        "init_lora_weights",
        "runtime_config",
        "eva_config",
        "corda_config",
        "loftq_config",
    ),  # training
}
"""Entries of an adapter's JSON that may have any value; one of the others changes what the adapter does."""


def attach_adapter(
    ensemble: Ensemble,
    rank: int = 16,
    alpha: float = 8.0,
    dropout: float = 0.3,
    targets: Sequence[str] = ("qkv",),
    name: str = "default",
) -> None:
    """Attach a fresh, trainable adapter (B = 0: the embedding does not change yet) and make it the active one.

    The defaults are the original's training configuration of the ensemble. Everything but the adapter is frozen.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
    _inject(ensemble, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets)), name)  # type: ignore[arg-type]
    set_adapter(ensemble, name, trainable=True)


def load_adapter(ensemble: Ensemble, folder: str | os.PathLike[str], name: str = "default") -> None:
    """Attach the adapter in a peft folder, ours or the original's, frozen, and make it the active one.

    Raises FileNotFoundError for a folder without the two files, ValueError for one that does not fit the ensemble.
    """
    from peft import LoraConfig

    options, tensors = read_adapter(ensemble, folder)
    _inject(ensemble, LoraConfig(**options), name)
    for key, parameter in _adapter_tensors(ensemble, name).items():
        parameter.data.copy_(tensors[key])
    set_adapter(ensemble, name)


def read_adapter(ensemble: Ensemble, folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options of `LoraConfig` and tensors of the adapter in a peft folder, once it is sure that they fit the ensemble.

    The ensemble is only looked at. Errors as `load_adapter`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for file in (_CONFIG, _WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"'{folder}' is no adapter folder: it has no {file}; give a folder that peft wrote."
            )
    try:
        stored = json.loads((folder / _CONFIG).read_text())
        tensors = {_our_key(key): value for key, value in load_file(folder / _WEIGHTS).items()}
    except (ValueError, SafetensorError) as error:
        raise ValueError(
            f"the adapter in '{folder}' cannot be read ({error!r}); copy it again from where it came."
        ) from error
    options = _options(stored, folder)
    _check_fit(ensemble, tensors, folder)
    rank, targets = options["r"], options["target_modules"]
    expected: dict[str, Sequence[int]] = {}
    for name, module in ensemble.named_modules():
        layer = module.get_base_layer() if _is_layer(module) else module
        if isinstance(layer, nn.Linear) and _is_target(name, targets):
            expected[f"{name}.lora_A.weight"] = (rank, layer.in_features)
            expected[f"{name}.lora_B.weight"] = (layer.out_features, rank)
    if problem := difference(expected, {key: tensor.shape for key, tensor in tensors.items()}):
        raise ValueError(
            f"the adapter in '{folder}' does not fit this ensemble: {problem}; load it into the variant it was made for."
        )
    if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"the adapter in '{folder}' has NaN or infinity in {broken[0]}; get it again.")
    return options, tensors


def _options(stored: Any, folder: Path) -> dict[str, Any]:
    """The options that we know; ValueError for one that is missing, odd, or would change the numbers unseen."""
    from peft import LoraConfig

    fix = f"; use an adapter of plain LoRA as peft writes it ('{folder}')."
    if not isinstance(stored, dict) or stored.get("peft_type") != "LORA":
        kind = stored.get("peft_type") if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"an adapter of type {kind!r} cannot be loaded, needed 'LORA'{fix}")
    if missing := [key for key in ("r", "lora_alpha", "target_modules") if key not in stored]:
        raise ValueError(f"the adapter's {_CONFIG} lacks {', '.join(missing)}{fix}")
    rank, alpha, targets = stored["r"], stored["lora_alpha"], stored["target_modules"]
    dropout = stored.get("lora_dropout", 0.0)
    number = (int, float)
    valid = {
        "r": type(rank) is int and rank >= 1,
        "lora_alpha": type(alpha) in number and math.isfinite(alpha),
        "lora_dropout": type(dropout) in number and 0 <= dropout < 1,
        "target_modules": isinstance(targets, list) and bool(targets) and all(isinstance(t, str) for t in targets),
    }
    if odd := [key for key, good in valid.items() if not good]:
        raise ValueError(f"the adapter's {odd[0]} cannot be {stored[odd[0]]!r}{fix}")
    usual = LoraConfig().to_dict()
    for key, value in stored.items():
        if key in usual and key not in _KNOWN and value and value != usual[key] and (key, value) != ("bias", "none"):
            raise ValueError(f"the adapter's {key} = {value!r} is not supported and would change its numbers{fix}")
    return {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": targets,
        "use_rslora": bool(stored.get("use_rslora")),
    }


def save_adapter(ensemble: Ensemble, folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Write an adapter (the active one by default) as a peft folder that the original package loads too."""
    name = name or _active(ensemble)
    _need(ensemble, name)
    config = ensemble.peft_config[name].to_dict()  # type: ignore[operator, union-attr, index]
    config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    config["auto_mapping"] = {"base_model_class": "PerceptualModel", "parent_library": "dreamsim.model"}
    if ensemble.device.type == "meta":
        raise ValueError("an adapter on the device 'meta' has no values to be written; build the model on another.")
    tensors = {_their_key(key): value.detach().float().cpu() for key, value in _adapter_tensors(ensemble, name).items()}
    folder = Path(folder)
    with writing(folder / _WEIGHTS) as weights, writing(folder / _CONFIG) as described:
        write_tensors(tensors, weights, {"format": "pt"})
        described.write_text(json.dumps(config, indent=2, default=str))


def adapter_names(ensemble: Ensemble) -> list[str]:
    """Names of the adapters that are attached and not folded."""
    return list(getattr(ensemble, "peft_config", {}))


def set_adapter(ensemble: Ensemble, name: str | None, trainable: bool = False) -> None:
    """Make one adapter the active one, or none with `None` (the un-tuned ensemble). Frozen unless `trainable`."""
    if name is not None:
        _need(ensemble, name)
    for layer in _layers(ensemble):
        layer.enable_adapters(name is not None)
        if name is not None:
            layer.set_adapter(name)
    for key, parameter in ensemble.named_parameters():
        if ".lora_" in key:
            parameter.requires_grad_(trainable and name is not None and f".{name}." in key)


def fold_adapters(ensemble: Ensemble) -> None:
    """Add the active adapter to the weights and drop all adapters: the same embedding for less work.

    Changes it by rounding only (below 1e-6 in float64). It cannot be undone: save adapters first.
    """
    for layer_name, layer in [(n, m) for n, m in ensemble.named_modules() if _is_layer(m)]:
        if not layer.disable_adapters:
            layer.merge(adapter_names=list(layer.active_adapters))
        parent, _, child = layer_name.rpartition(".")
        setattr(ensemble.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(ensemble, "peft_config"):
        del ensemble.peft_config
    ensemble.requires_grad_(False)


def _inject(ensemble: Ensemble, config: Any, name: str) -> None:
    from peft import inject_adapter_in_model

    if name in adapter_names(ensemble):
        raise ValueError(f"an adapter named '{name}' is attached already; choose another name.")
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"an adapter's name has letters, digits and underscores only, got '{name}'.")
    targets = sorted(config.target_modules)
    for module_name, module in ensemble.named_modules():
        layer = module.get_base_layer() if _is_layer(module) else module
        if _is_target(module_name, targets) and not isinstance(layer, nn.Linear):
            raise ValueError(
                f"an adapter goes on linear layers, and {targets} match '{module_name}', a {type(layer).__name__}; say more of "
                "the name, e.g. 'attn.proj' for 'proj'."
            )
    before = {key: parameter.requires_grad for key, parameter in ensemble.named_parameters()}
    try:
        with warnings.catch_warnings(), building_for(ensemble.device):
            # peft warns that the model has a peft_config already: several adapters side by side are what we want
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, ensemble, adapter_name=name)
    except ValueError as error:
        raise ValueError(
            f"no layer of this ensemble is named {sorted(config.target_modules)} ({error}); choose the names of linear layers "
            "in its backbones, e.g. 'qkv', 'attn.proj', 'fc1'."
        ) from error
    ensemble.train(ensemble.training)  # new modules start in training mode, where their dropout acts
    for key, parameter in ensemble.named_parameters():
        parameter.requires_grad_(before.get(key, False) and ".lora_" in key)
        if ".lora_" in key:  # peft makes them in float32 or the default dtype; the ensemble may have another
            parameter.data = parameter.data.to(ensemble.dtype)


def _is_target(name: str, targets: Sequence[str]) -> bool:
    """As peft matches a list: the whole name, or its last parts."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_layer(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_base_layer")


def _layers(ensemble: Ensemble) -> list[Any]:
    return [module for module in ensemble.modules() if _is_layer(module)]


def _active(ensemble: Ensemble) -> str:
    for layer in _layers(ensemble):
        return layer.active_adapters[0]
    raise ValueError("this ensemble has no adapter; attach or load one first (adapters that were folded are gone).")


def _need(ensemble: Ensemble, name: str) -> None:
    if name not in adapter_names(ensemble):
        known = ", ".join(adapter_names(ensemble)) or "none (a folded adapter is part of the weights)"
        raise ValueError(f"no adapter '{name}' is attached; attached: {known}.")


def _adapter_tensors(ensemble: Ensemble, name: str) -> dict[str, Tensor]:
    """The adapter's parameters under keys without its name: `branches.0.backbone.blocks.0.attn.qkv.lora_A.weight`."""
    part = f".{name}."
    return {key.replace(part, "."): p for key, p in ensemble.named_parameters() if ".lora_" in key and part in key}


def _their_key(key: str) -> str:
    return "base_model.model." + re.sub(r"^branches\.(\d+)\.backbone\.", r"extractor_list.\1.model.", key)


def _our_key(key: str) -> str:
    key = key.removeprefix("base_model.model.")
    return re.sub(r"^extractor_list\.(\d+)\.model\.", r"branches.\1.backbone.", key)


def _check_fit(ensemble: Ensemble, tensors: dict[str, Tensor], folder: Path) -> None:
    if any(key.startswith("base_model.") for key in tensors):
        raise ValueError(
            f"the adapter in '{folder}' has the format of dreamsim 0.1.x (peft 0.1.0); its numbers are those of another model. "
            "Use the release of version 0.2.0 or later."
        )
    modules = dict(ensemble.named_modules())
    missing = [key for key in tensors if re.sub(r"\.lora_[AB]\.weight$", "", key) not in modules]
    theirs = {int(m[1]) for m in (re.match(r"branches\.(\d+)\.", key) for key in tensors) if m}
    if missing or not tensors or theirs != set(range(len(ensemble.branches))):
        detail = f"it holds {missing[0]}" if missing else f"it is for {len(theirs)} branches"
        names = ", ".join(config.name for config in ensemble.configs)
        raise ValueError(
            f"the adapter in '{folder}' does not fit this ensemble of {len(ensemble.branches)} ({names}): {detail}; "
            "load it into the variant it was made for."
        )
