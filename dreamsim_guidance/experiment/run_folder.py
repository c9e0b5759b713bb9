"""The folder of one run: everything that is needed to know what was done, and to do it again.

    recipe.json     the resolved recipe: every field with its type
    recipe.py       the file that defined it, as it was
    versions.json   Python, packages, machine
    log.txt         what happened, with the traceback if it failed
    results.json    what the run returned; it exists once the run is complete

Files appear whole or not at all, and so does the folder: it is filled under another name and then renamed.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

from dreamsim_guidance.experiment.registry import Recipe, load_module, recipes
from dreamsim_guidance.files.atomic import new_folder, write_json

__all__ = ["check_format", "create", "describe", "read_recipe", "versions"]

FORMAT = 2
"""Of recipe.json. 1 was written by release 0.1.0, whose modules lay elsewhere: `dreamsim_guidance.recipes.registry`, ..."""


def create(folder: Path, recipe: Recipe) -> None:
    """Make a run folder at `folder`, which must not exist or be empty."""
    with new_folder(folder) as temporary:
        (temporary / "recipe.py").write_text(recipe.source, encoding="utf-8")
        write_json(temporary / "recipe.json", describe(recipe))
        write_json(temporary / "versions.json", versions())


def describe(recipe: Recipe) -> dict[str, Any]:
    """The content of recipe.json."""
    config = _encode(recipe.config, recipe.module, "")
    return {"format": FORMAT, "recipe": recipe.name, "module": recipe.module, "seed": recipe.seed, "config": config}


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run folder, rebuilt with the source that it ran with.

    Raises FileNotFoundError if `folder` is no run folder, and ValueError if it is damaged, if it was made by a release whose
    layout was another, or if its fields do not fit the installed code.
    """
    file = folder / "recipe.json"
    if not file.is_file():
        raise FileNotFoundError(f"'{folder}' is not a run folder: it has no recipe.json.")
    source = folder / "recipe.py"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        name, config = content["recipe"], content["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{file}' is not a resolved recipe ({type(error).__name__}: {error}).") from error
    check_format(folder, content)
    module = _module(source, str(content.get("module")))
    try:
        rebuilt = _decode(config, module)
    except (AttributeError, ImportError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{file}' does not fit the code that is installed ({type(error).__name__}: {error})."
        ) from error
    return Recipe(name, rebuilt, source.read_text(encoding="utf-8"), source, module.__name__)


def check_format(folder: Path, content: dict[str, Any]) -> None:
    """Raise ValueError, with what to do, if the folder's recipe.json is of another format than this release writes."""
    number, name = content.get("format"), content.get("recipe")
    if number == FORMAT:
        return
    if isinstance(number, int) and number > FORMAT:
        raise ValueError(
            f"'{folder}' was made by a newer release (format {number}, this one reads {FORMAT}); update dreamsim-guidance."
        )
    if isinstance(name, str) and name in recipes():
        again = f"run the recipe again by its name, `dreamsim-guidance run {name}`"
    elif name == "guide":
        again = "run the command again, `dreamsim-guidance guide`"
    else:
        again = (
            "import `recipe` in your recipe's file from dreamsim_guidance.experiment.registry, where it is now, and run that "
            "file again"
        )
    raise ValueError(
        f"'{folder}' was made by an earlier release (0.1.0), whose layout this one does not read; {again}, with the fields "
        "in the folder's recipe.json, or use release 0.1.0. Its results.json and pictures are complete as they are."
    )


def _module(source: Path, name: str) -> ModuleType:
    """The installed module if its text is still the same, else a module made of the text in the run folder."""
    if name.startswith("dreamsim_guidance."):
        try:
            module = importlib.import_module(name)
        except ImportError:
            return load_module(source)
        if module.__file__ and source.is_file() and Path(module.__file__).read_bytes() == source.read_bytes():
            return module
    return load_module(source)


def _encode(value: Any, module: str, where: str) -> Any:
    """JSON from which `_decode` makes an equal value of the same type; `where` is the field's name, for the error."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Path):
        return {"path": str(value)}
    if type(value) is tuple:
        return {"tuple": [_encode(item, module, f"{where}.{i}") for i, item in enumerate(value)]}
    if type(value) is list:
        return [_encode(item, module, f"{where}.{i}") for i, item in enumerate(value)]
    if type(value) is dict:
        return {"dict": [[_encode(k, module, where), _encode(v, module, f"{where}.{k}")] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        home = "recipe" if kind.__module__ == module else kind.__module__
        fields = {
            field.name: _encode(getattr(value, field.name), module, f"{where}.{field.name}".lstrip("."))
            for field in dataclasses.fields(value)
            if field.init
        }
        return {"type": f"{home}:{kind.__qualname__}", "fields": fields}
    raise TypeError(
        f"recipe field {where} holds a {type(value).__name__}; it can hold numbers, strings, paths, tuples, lists, "
        "dicts and frozen dataclasses of these."
    )


def _decode(value: Any, module: ModuleType) -> Any:
    if isinstance(value, list):
        return [_decode(item, module) for item in value]
    if not isinstance(value, dict):
        return value
    if "type" in value:
        home, _, name = value["type"].partition(":")
        kind: Any = module if home == "recipe" else importlib.import_module(home)
        for part in name.split("."):
            kind = getattr(kind, part)
        if not hasattr(kind, "__dataclass_fields__"):
            raise TypeError(f"{value['type']} is not a dataclass")
        return kind(**{key: _decode(item, module) for key, item in value["fields"].items()})
    (tag, content), *_ = value.items()
    if tag == "tuple":
        return tuple(_decode(item, module) for item in content)
    if tag == "dict":
        return {_decode(key, module): _decode(item, module) for key, item in content}
    return {"path": Path, "float": float}[tag](content)


def versions() -> dict[str, Any]:
    """The versions of Python and of the packages that this one requires, and the machine."""
    import torch

    names = {"dreamsim-guidance"}
    try:
        required = importlib.metadata.requires("dreamsim-guidance") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        required = ["torch", "timm"]
    for requirement in required:
        if "extra ==" not in requirement:
            names.add(requirement.split(";")[0].split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip(" ~!"))
    packages = {}
    for name in sorted(names):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    cuda = torch.cuda.is_available()
    machine = {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if cuda else None,
    }
    return {"python": platform.python_version(), "packages": packages, "machine": machine}
