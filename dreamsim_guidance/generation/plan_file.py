"""Read a plan from a TOML or JSON file, or take one that ships with the package.

    categories = ["cat", "dog"]                  # or a text file, with one on each line
    templates = ["An image of a <category>"]
    models = ["sd15"]                            # or tables: [[models]] model = "sd15", steps = 30, ...
    ways = ["seed"]                              # or tables: [[ways]] way = "guide", amounts = [0.1, [0.1, 0.2]]
    metric = "ensemble"

`generation.plan` describes every key. An unknown key is an error. The path of a text file is relative to the plan's folder.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

from dreamsim_guidance.files.names import suggestion
from dreamsim_guidance.generation.plan import Plan, PlannedModel, Screen, Way

__all__ = ["built_in_plans", "plan_of", "read_plan"]

_LARGEST = 32 << 20
"""Bytes of a plan or of a list of categories."""

_toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

T = TypeVar("T")


def built_in_plans() -> dict[str, str]:
    """The text of each plan that ships with the package, by name."""
    folder = files("dreamsim_guidance.generation") / "plans"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".toml"))
    return {name.removesuffix(".toml"): (folder / name).read_text(encoding="utf-8") for name in names}


def read_plan(source: Path | str) -> Plan:
    """Return the plan in a file (.toml or .json), or the built-in plan of this name.

    Raises FileNotFoundError for a missing file, ValueError for a file that is no plan; the message names the file and the key.
    """
    text, plans = str(source), built_in_plans()
    if text in plans:
        with as_file(files("dreamsim_guidance.generation") / "plans") as folder:
            return plan_of(_toml.loads(plans[text]), folder)
    file = Path(source)
    if not file.exists() and file.suffix not in (".toml", ".json"):
        raise ValueError(
            f"unknown plan '{text}'{suggestion(text, plans)}; give a file (.toml or .json), or one of {', '.join(plans)}."
        )
    content = _text(file, "plan")
    try:
        value = json.loads(content) if file.suffix == ".json" else _toml.loads(content)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ValueError(f"the plan '{file}' is not {kind} ({error}).") from error
    try:
        return plan_of(value, file.parent)
    except ValueError as error:
        raise ValueError(f"the plan '{file}': {error}") from error


def plan_of(content: Any, folder: Path) -> Plan:
    """The plan that a mapping describes, as `Plan.to_dict` writes it or a file has it. Paths are relative to `folder`."""
    values = _keys(Plan, content, "a plan")
    for name in ("categories", "imagenet_categories"):
        if isinstance(values.get(name), str):
            values[name] = _lines(folder / values[name])
        elif name in values:
            values[name] = tuple(_list(name, values[name]))
    if "templates" in values:
        values["templates"] = tuple(_list("templates", values["templates"]))
    if "models" not in values:
        raise ValueError("a plan needs a model; such as models = ['sd15'].")
    values["models"] = tuple(_part(PlannedModel, "model", model) for model in _list("models", values["models"]))
    if "ways" in values:
        values["ways"] = tuple(_part(Way, "way", _with_pairs(way)) for way in _list("ways", values["ways"]))
    if "screen" in values:
        values["screen"] = Screen(**_keys(Screen, values["screen"], "screen"))
    return Plan(**values)


def _part(kind: type[T], name: str, value: Any) -> T:
    """A dataclass from a table, or from a text that is its field `name`."""
    return kind(**_keys(kind, {name: value} if isinstance(value, str) else value, f"a {name}", name))


def _with_pairs(way: Any) -> Any:
    """The table of a way, in which each amount has become a pair."""
    if not isinstance(way, Mapping) or "amounts" not in way:
        return way
    pairs = []
    for amount in _list("amounts", way["amounts"]):
        pair = tuple(amount) if isinstance(amount, list) else (amount, amount)
        if len(pair) != 2 or any(isinstance(value, list | dict | str) for value in pair):
            raise ValueError(f"an amount must be one number, or two, one for each variation, got {amount!r}.")
        pairs.append(tuple(float(value) if type(value) is int else value for value in pair))
    return {**way, "amounts": tuple(pairs)}


def _keys(kind: type, content: Any, what: str, needed: str | None = None) -> dict[str, Any]:
    """The entries of a table that become fields of a dataclass; ValueError for other keys, and without the `needed` one."""
    names = [field.name for field in fields(kind)]
    if not isinstance(content, Mapping):
        raise ValueError(f"{what} must be a table with the keys {', '.join(names)}, got {content!r}.")
    for key in content:
        if key not in names:
            raise ValueError(
                f"{what} has the unknown key '{key}'{suggestion(str(key), names)}; known: {', '.join(names)}."
            )
    if needed is not None and needed not in content:
        raise ValueError(f"{what} needs the key '{needed}', got {', '.join(content) or 'nothing'}.")
    return dict(content)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, got {value!r}.")
    return list(value)


def _lines(file: Path) -> tuple[str, ...]:
    names = tuple(filter(None, map(str.strip, _text(file, "list of categories").split("\n"))))
    if not names:
        raise ValueError(f"the list of categories '{file}' is empty; write one on each line.")
    return names


def _text(file: Path, what: str) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"the {what} '{file}' is not a file; check its path.")
    if file.stat().st_size > _LARGEST:
        raise ValueError(f"the {what} '{file}' has {file.stat().st_size:,} bytes, at most {_LARGEST:,} are read.")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the {what} '{file}' is not UTF-8 text; save it as UTF-8.") from error
