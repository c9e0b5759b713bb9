"""Low-rank adapters on the packed qkv of every block, through peft.

    W <- W + (alpha / r) B A

Adapters are attached to an `Ensemble` under names, trained, swapped, saved, and folded into the weights. On disk they have
the original's layout (one peft folder over all branches), so that either package reads what the other wrote; rank and
alpha always come from that folder's own JSON.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamsim_guidance.ensemble import Ensemble

__all__ = ["adapter_names", "attach_adapter", "fold_adapters", "load_adapter", "save_adapter", "set_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


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
        options = {key: stored[key] for key in ("r", "lora_alpha", "lora_dropout", "bias", "target_modules")}
        tensors = {_our_key(key): value for key, value in load_file(folder / _WEIGHTS).items()}
    except (json.JSONDecodeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"the adapter in '{folder}' cannot be read ({error!r}); copy it again from where it came."
        ) from error
    _check_fit(ensemble, tensors, folder)
    _inject(ensemble, LoraConfig(**options), name)
    wanted = _adapter_tensors(ensemble, name)
    if wrong := [key for key in wanted if wanted[key].shape != tensors[key].shape]:
        key = wrong[0]
        _remove(ensemble, name)
        raise ValueError(
            f"the adapter in '{folder}' does not fit this ensemble: {key} is {tuple(tensors[key].shape)}, "
            f"needed {tuple(wanted[key].shape)}; load it into the variant it was made for."
        )
    for key, parameter in wanted.items():
        parameter.data.copy_(tensors[key])
    set_adapter(ensemble, name)


def save_adapter(ensemble: Ensemble, folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Write an adapter (the active one by default) as a peft folder that the original package loads too."""
    from safetensors.torch import save_file

    name = name or _active(ensemble)
    _need(ensemble, name)
    config = ensemble.peft_config[name].to_dict()  # type: ignore[operator, union-attr, index]
    config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    config["auto_mapping"] = {"base_model_class": "PerceptualModel", "parent_library": "dreamsim.model"}
    tensors = {_their_key(key): value.detach().float().cpu() for key, value in _adapter_tensors(ensemble, name).items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        save_file(tensors, Path(scratch, _WEIGHTS), metadata={"format": "pt"})
        Path(scratch, _CONFIG).write_text(json.dumps(config, indent=2, default=str))
        for file in (_WEIGHTS, _CONFIG):
            os.replace(Path(scratch, file), folder / file)


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
    before = {key: parameter.requires_grad for key, parameter in ensemble.named_parameters()}
    try:
        with warnings.catch_warnings():
            # peft warns that the model has a peft_config already: several adapters side by side are what we want
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, ensemble, adapter_name=name)
    except ValueError as error:
        raise ValueError(
            f"no layer of this ensemble is named {sorted(config.target_modules)} ({error}); choose the names of linear layers "
            "in its backbones, e.g. 'qkv', 'proj', 'fc1'."
        ) from error
    ensemble.train(ensemble.training)  # new modules start in training mode, where their dropout acts
    for key, parameter in ensemble.named_parameters():
        parameter.requires_grad_(before.get(key, False) and ".lora_" in key)
        if ".lora_" in key:  # peft makes them float32; the ensemble may be float64
            parameter.data = parameter.data.to(ensemble.dtype)


def _remove(ensemble: Ensemble, name: str) -> None:
    for layer in _layers(ensemble):
        layer.delete_adapter(name)
    del ensemble.peft_config[name]  # type: ignore[operator, union-attr]


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
