"""Check the card of a model file, and read the branches that it describes.

A file may come from an untrusted source. Nothing in its card may open or fetch another file, and numbers that do not fit the
tensors in the file are refused before anything is built from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.untrusted_json import parse_json
from dreamsim_guidance.metric.branch_config import BranchConfig
from dreamsim_guidance.metric.tower_weights import TowerWeights

__all__ = ["branch_configs", "check_card", "parse_card"]

_ENTRIES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "branches": (list,),
    "head": (dict, type(None)),
    "normalize_embeds": (bool,),
    "source": (str,),
    "licence": (str,),
    "reference": (dict,),
}
"""What every card has. `reference` holds numbers by name: what this file reached, or should reach."""

_FETCHING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "pretrained_hf"}
"""Arguments of timm and open_clip that read other files."""

_MOST_BRANCHES, _DEEPEST = 64, 16
_ALWAYS_POSSIBLE = 8192
"""Sizes, such as an image's, that need no tensor of that size."""

_FREE = {"weight", "layer_weights"}
"""Numbers of which only ratios matter."""

_REPEATS = ("depth", "layer", "block", "stage")
"""Arguments whose names contain one of these count parts of a tower, each of which has tensors."""


def parse_card(text: str, path: Path) -> dict[str, Any]:
    """The card in the header of the file at `path`. Raises ValueError for one that is damaged or incomplete."""
    card = parse_json(text, f"'{path}': its card")
    check_card(card, path)
    return card


def check_card(card: Any, path: Path) -> None:
    """Raise ValueError unless `card` has the entries that every card has, with values of their kinds."""
    if not isinstance(card, dict):
        raise ValueError(f"'{path}': a card is a dictionary, got {type(card).__name__}.")
    for key, kinds in _ENTRIES.items():
        if key not in card:
            raise ValueError(f"'{path}': the card lacks '{key}'; it needs {', '.join(_ENTRIES)}.")
        if not isinstance(card[key], kinds):
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"'{path}': the card's '{key}' must be {wanted}, got {card[key]!r:.60}.")
    if card["head"] is not None:
        hidden = card["head"].get("hidden")
        if type(hidden) is not int or hidden < 1:
            raise ValueError(
                f"'{path}': the card's 'head' must be null or {{'hidden': width}}, got {card['head']!r:.60}."
            )


def branch_configs(
    card: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], path: Path
) -> tuple[list[BranchConfig], int | None]:
    """The branches and the width of the head that a card describes, whose file at `path` holds tensors of `shapes`.

    Raises ValueError for a description that no model can have, that would make other files be read, or whose numbers are
    larger than anything in the file.
    """
    branches = card["branches"]
    if len(branches) > _MOST_BRANCHES:
        raise ValueError(f"'{path}': its card has {len(branches)} branches, at most {_MOST_BRANCHES} are read.")
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    described = {"branches": branches, "head": card["head"]}
    try:
        numbers = list(_numbers(described))
    except ValueError as error:
        raise ValueError(f"'{path}': its card describes branches that cannot be built ({error}).") from error
    for key, value in numbers:
        most = len(shapes) if any(part in key for part in _REPEATS) else max(largest, _ALWAYS_POSSIBLE)
        if key not in _FREE and not abs(value) <= most:  # NaN too
            raise ValueError(
                f"'{path}': its card describes a model of wrong shape: {key} = {value!r:.60}, but the file has "
                f"{len(shapes)} tensors of at most {largest} rows or columns."
            )
    configs = [_config(branch, path) for branch in branches]
    for config in configs:
        if len(config.layers or ()) > len(shapes):
            raise ValueError(
                f"'{path}': its card describes a model of wrong shape: branch '{config.name}' reads {len(config.layers or ())} "
                f"layers, but the file has {len(shapes)} tensors."
            )
    return configs, None if card["head"] is None else card["head"]["hidden"]


def _numbers(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, int | float]]:
    """All numbers in nested lists and dictionaries, each with the nearest key above it."""
    if depth > _DEEPEST:
        raise ValueError(f"'{key}' is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, name, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, key, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def _config(branch: Any, path: Path) -> BranchConfig:
    field_names = {field.name for field in fields(BranchConfig)}
    if not isinstance(branch, dict) or not {"name", "architecture"} <= branch.keys():
        raise ValueError(f"'{path}': a branch in the card needs a name and an architecture, got {branch!r:.60}.")
    if unknown := sorted(branch.keys() - field_names):
        raise ValueError(
            f"'{path}': a branch in the card has {', '.join(unknown)}, which this version does not know; "
            "pip install --upgrade dreamsim-guidance."
        )
    overrides = branch.get("overrides") or {}
    fetching = sorted(_FETCHING & overrides.keys()) if isinstance(overrides, dict) else ["overrides"]
    if fetching or any(letter in str(branch["architecture"]) for letter in ":/\\"):
        cause = ", ".join(fetching) or f"architecture '{branch['architecture']}'"
        raise ValueError(f"'{path}' is refused: its card would make other files be read ({cause}).")
    options = {**branch, "overrides": overrides}
    for key in ("mean", "std", "layers", "layer_weights"):
        if isinstance(options.get(key), list):
            options[key] = tuple(options[key])
    try:
        if isinstance(options.get("weights"), dict):  # a record: where they came from, which is never opened here
            options["weights"] = TowerWeights(**options["weights"])
        return BranchConfig(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{path}': its card has a branch that cannot be built ({error}).") from error
