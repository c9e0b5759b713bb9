"""Where a metric's ensemble comes from: a published variant, the pocket model, or a model file; and its card.

The card says what a model file says of itself: name, branches, source, licence, and the numbers that it reached.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dreamsim_guidance.metric import adapters
from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.metric.photographs import PHOTOGRAPHS
from dreamsim_guidance.metric.robust import ROBUST
from dreamsim_guidance.metric.variants import variant

__all__ = ["Loaded", "card_of", "load_ensemble"]

Origin = Literal["published", "base", "random"]

_WEIGHTS = Path(__file__).parents[1] / "weights"
_POCKET = _WEIGHTS / "pocket.safetensors"
_POCKET_ADAPTERS = {"pocket": _WEIGHTS / "pocket_adapter", "pocket_robust": _WEIGHTS / "pocket_robust_adapter"}


@dataclass
class Loaded:
    """An ensemble in its stored precision, at least float32, and what is known about it.

    adapter: folder of the adapter that is still to be attached.
    source: entries of the card in the model's file.
    origin: of a published variant, whether its weights are the release's, the base weights without adapter, or random.
    """

    ensemble: Ensemble
    adapter: Path | None = None
    variant: str | None = None
    source: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None


def load_ensemble(
    model: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None,
    pretrained: bool,
    baseline: bool,
) -> Loaded:
    """The ensemble that `model` names, on the CPU or "meta"; arguments and errors as in `DreamSim`."""
    pocket_adapter = _POCKET_ADAPTERS.get(str(model))
    if pocket_adapter is not None or Path(model).suffix == ".safetensors":
        if weights is not None or not pretrained or (baseline and pocket_adapter is None):
            raise ValueError(
                f"'{model}' is one file with its weights: weights, baseline and pretrained=False are for published "
                "variants; leave them out."
            )
        from dreamsim_guidance.checkpoints.model_file import read_model

        ensemble, card = read_model(model if pocket_adapter is None else _POCKET)
        if pocket_adapter is None or baseline:
            return Loaded(ensemble, None, card["name"], card)
        if str(model) == "pocket_robust":  # its adapter was trained on the tuned ensemble
            adapters.load_adapter(ensemble, _POCKET_ADAPTERS["pocket"])
            adapters.fold_adapters(ensemble)
        card |= json.loads((pocket_adapter / "card.json").read_text(encoding="utf-8"))
        return Loaded(ensemble, pocket_adapter, str(model), card)
    if str(model) in PHOTOGRAPHS:
        _refuse_options(model, "installed packages", weights, baseline)
        return _photographs(str(model), pretrained)
    if str(model) in ROBUST:
        _refuse_options(model, "the Hub", weights, baseline)
        card = {"source": "https://huggingface.co/chs20", "licence": "MIT"}
        return _towers(str(model), ROBUST[str(model)], card, pretrained)
    if Path(model).is_dir():
        raise ValueError(
            f"'{model}' is a folder; use DreamSim.from_pretrained for one that save_pretrained wrote, or "
            "DreamSim(name, weights=folder) for an official release."
        )
    published = variant(str(model))
    if not pretrained:
        return Loaded(Ensemble(published.branches), None, published.name, origin="random")
    from dreamsim_guidance.checkpoints.official import load_official

    checkpoint = load_official(published.name, weights=weights, cache_dir=cache_dir, pretrained=not baseline)
    origin: Origin = "base" if baseline else "published"
    return Loaded(checkpoint.ensemble, checkpoint.adapter, published.name, origin=origin)


def _refuse_options(
    model: str | os.PathLike[str], place: str, weights: str | os.PathLike[str] | None, baseline: bool
) -> None:
    if weights is not None or baseline:
        raise ValueError(
            f"'{model}' has its weights from {place} and no adapter: weights and baseline are for published variants; leave "
            "them out."
        )


def _towers(name: str, configs: Sequence[BranchConfig], card: dict[str, Any], pretrained: bool) -> Loaded:
    """Towers whose configs name their weights, un-tuned."""
    ensemble = Ensemble([Branch(config, pretrained) for config in configs])
    return Loaded(ensemble, None, name, card if pretrained else {"source": "random weights"})


def _photographs(name: str, pretrained: bool) -> Loaded:
    card = {"source": "EfficientNet-Lite 0, 1 and 2, ImageNet", "licence": "Apache-2.0"}
    try:
        return _towers(name, PHOTOGRAPHS[name], card, pretrained)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"DreamSim('{name}') needs the extra 'photographs', pip install \"dreamsim-guidance[photographs]\": {error}"
        ) from error


def card_of(
    ensemble: Ensemble, name: str | None, source: dict[str, Any], origin: str | None, normalize_embeds: bool
) -> dict[str, Any]:
    """What a model file says of this ensemble; the arguments after it are those of `Loaded`."""
    card: dict[str, Any] = {"source": "unknown", "licence": "unknown", "reference": {}}
    if origin == "random":
        card["source"] = "random weights"
    elif origin is not None and name is not None:
        published = variant(name)
        card |= {"source": published.url, "licence": "MIT (dreamsim); the branches' own licences apply"}
        if origin == "published":  # figures are those of the untouched release only
            card["reference"] = {f"NIGHTS {s}, published": value for s, value in published.agreement.items()}
        else:
            card["source"] += " (base weights, no adapter)"
    return {
        **card,
        **source,
        "name": name or "dreamsim",
        "branches": [asdict(config) for config in ensemble.configs],
        "head": None if ensemble.head is None else {"hidden": ensemble.head.fc1.out_features},
        "normalize_embeds": normalize_embeds,
    }
