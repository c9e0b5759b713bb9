"""Adapters on disk: one peft folder over all branches, in the original's layout.

    adapter_config.json           rank, alpha, dropout, the names of the tuned layers
    adapter_model.safetensors     base_model.model.extractor_list.0.model.blocks.0.attn.qkv.lora_A.weight, ...

Either package reads what the other wrote, and so does peft. Every adapter that is loaded is checked here against the ensemble
that it is for. Rank and alpha always come from the folder's own JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.files.untrusted_json import parse_json
from dreamsim_guidance.metric.adapter_targets import layers_of
from dreamsim_guidance.metric.assembly import difference
from dreamsim_guidance.metric.ensemble import Ensemble

__all__ = ["peft", "read_adapter", "write_adapter"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_HARMLESS = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora"),  # read
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),  # labels
    # of training
    *("inference_mode", "init_lora_weights", "runtime_config", "eva_config", "corda_config", "loftq_config"),
}
"""Settings of an adapter that may have any value; each of the others changes what the adapter does."""

_LARGEST = 1e6
"""Rank and alpha beyond it are a damaged file."""


def peft() -> Any:
    """The package peft. Raises ImportError where it cannot be imported, as under `python -OO`."""
    try:
        import peft
    except ValueError as error:  # transformers, which peft imports, reads docstrings
        raise ImportError(
            f"peft, which attaches adapters, cannot be imported here ({str(error)[:80]}...). Under python -OO there are no "
            "docstrings, and its requirement transformers needs them: use python -O, or a model without adapter."
        ) from error
    return peft


def read_adapter(
    ensemble: Ensemble,
    folder: Path,
    owner: str = "this ensemble",
    cure: str = "load it into the variant it was made for, or get it again",
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the adapter in a folder and check that it fits; return arguments of peft's `LoraConfig`, and the tensors by name.

    ensemble: is not changed, and may be on the device "meta".
    owner, cure: for the messages: what the adapter is for, and what to do about a wrong one.

    Raises FileNotFoundError for a folder without the two files, ValueError for files that are damaged or of another kind,
    that do not fit the ensemble, or whose settings would change the numbers without being supported.
    """
    for file in (_CONFIG, _WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"'{folder}' is not the folder of an adapter: it has no {file}; give a folder that peft wrote."
            )
    try:
        options = _options((folder / _CONFIG).read_bytes(), folder)
        tensors = _tensors(folder / _WEIGHTS)
        _check_names(ensemble, tensors, options, folder, owner)
        _check_shapes(ensemble, tensors, options, folder)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}; {cure}.") from error
    return options, tensors


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the settings and tensors of an adapter, named as in the ensemble, in float32.

    Raises OSError if the files cannot be written.
    """
    settings = {
        **config,
        "target_modules": sorted(map(_their_name, config["target_modules"])),
        "inference_mode": True,
        "auto_mapping": {"base_model_class": "PerceptualModel", "parent_library": "dreamsim.model"},
    }
    stored = {_their_key(key): value.detach().float().cpu() for key, value in tensors.items()}
    with writing(folder / _WEIGHTS) as weights, writing(folder / _CONFIG) as described:
        write_tensors(stored, weights, {"format": "pt"})
        described.write_text(json.dumps(settings, indent=2, default=str), encoding="utf-8")


def _options(text: bytes, folder: Path) -> dict[str, Any]:
    stored = parse_json(text, f"'{folder / _CONFIG}'")
    if not isinstance(stored, dict) or stored.get("peft_type") != "LORA":
        kind = stored.get("peft_type") if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"'{folder}': an adapter of type {kind!r} cannot be loaded, needed 'LORA'")
    if "enable_lora" in stored:
        raise ValueError(
            f"'{folder}' is an adapter of dreamsim 0.1.x (peft 0.1.0's format): its weights are others, and its embeddings "
            "were normalised before they were centred"
        )
    if missing := [key for key in ("r", "lora_alpha", "target_modules") if key not in stored]:
        raise ValueError(f"'{folder}': the adapter's {_CONFIG} lacks {', '.join(missing)}")
    options = {
        "r": stored["r"],
        "lora_alpha": stored["lora_alpha"],
        "lora_dropout": stored.get("lora_dropout", 0.0),
        "target_modules": _our_names(stored["target_modules"]),
        "use_rslora": bool(stored.get("use_rslora")),
    }
    rank, alpha, dropout, targets, _ = options.values()
    number = (int, float)
    valid = {
        "r": type(rank) is int and 1 <= rank <= _LARGEST,
        "lora_alpha": type(alpha) in number and abs(alpha) <= _LARGEST,
        "lora_dropout": type(dropout) in number and 0 <= dropout < 1,
        "target_modules": isinstance(targets, list) and bool(targets) and all(isinstance(t, str) for t in targets),
    }
    if invalid := [key for key, is_valid in valid.items() if not is_valid]:
        raise ValueError(f"'{folder}': the adapter's {invalid[0]} cannot be {options[invalid[0]]!r:.60}")
    usual = peft().LoraConfig().to_dict()
    for key, value in stored.items():
        if key in usual and key not in _HARMLESS and value and value != usual[key] and (key, value) != ("bias", "none"):
            raise ValueError(
                f"'{folder}': the adapter's {key} = {value!r:.60} is not supported and would change its numbers"
            )
    return options


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors under the ensemble's names."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {_our_key(key): value for key, value in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or no safetensors file, and cannot be read ({error})") from error


def _check_names(
    ensemble: Ensemble, tensors: Mapping[str, Tensor], options: Mapping[str, Any], folder: Path, owner: str
) -> None:
    branches, fitting = (
        {int(match[1]) for key in keys if (match := re.match(r"branches\.(\d+)\.", key))}
        for keys in (tensors, (name for name, _ in layers_of(ensemble, options["target_modules"])))
    )
    if branches and fitting and branches != fitting:
        names = ", ".join(config.name for config in ensemble.configs)
        raise ValueError(
            f"wrong adapter: '{folder}' does not fit this ensemble of {len(ensemble.configs)} ({names}): it tunes "
            f"{len(branches)} branches, {owner} has {len(ensemble.configs)}"
        )
    modules = dict(ensemble.named_modules())
    foreign = [key for key in tensors if re.sub(r"\.lora_[AB]\.weight$", "", key) not in modules]
    if foreign or not tensors:
        example = f" ('{foreign[0]}')" if foreign else " (it is empty)"
        old = "; that is the format of dreamsim 0.1.x" if foreign and foreign[0].startswith("base_model.") else ""
        raise ValueError(f"'{folder}' has other names than DreamSim's adapters{example}{old}")


def _check_shapes(ensemble: Ensemble, tensors: Mapping[str, Tensor], options: Mapping[str, Any], folder: Path) -> None:
    expected: dict[str, Sequence[int]] = {}
    for name, layer in layers_of(ensemble, options["target_modules"]):
        out, *rest = layer.weight.shape
        expected[f"{name}.lora_A.weight"] = (options["r"], *rest)
        expected[f"{name}.lora_B.weight"] = (out, options["r"], *(1 for _ in rest[1:]))
    if problem := difference(expected, {key: tensor.shape for key, tensor in tensors.items()}):
        raise ValueError(f"the adapter in '{folder}' does not fit this ensemble: {problem}")
    if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"the adapter in '{folder}' has NaN or infinity in {broken[0]}")


def _their_key(key: str) -> str:
    return "base_model.model." + _their_name(key)


def _their_name(name: str) -> str:
    """The original's name of a module; it differs for names that begin at the ensemble, not for last parts of names."""
    return re.sub(r"^branches\.(\d+)\.backbone\.", r"extractor_list.\1.model.", name)


def _our_key(key: str) -> str:
    return _our_name(key.removeprefix("base_model.model."))


def _our_name(name: str) -> str:
    return re.sub(r"^extractor_list\.(\d+)\.model\.", r"branches.\1.backbone.", name)


def _our_names(targets: Any) -> Any:
    """Names of layers as here; what is no list of text is left for the check of the settings."""
    if not isinstance(targets, list):
        return targets
    return [_our_name(target) if isinstance(target, str) else target for target in targets]
