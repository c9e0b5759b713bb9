"""Find recipes: functions that return one frozen dataclass, in which every decision about a run is visible.

    @recipe
    def train_small() -> Training:
        '''One line for the list. The last sentence is the number that it reproduced, with the hardware.'''
        return Training(steps=1000, optimiser=Adam(lr=3e-4), seed=0)

The dataclass has a method `run(folder) -> dict` that does the work inside `folder` and returns its results. Its fields
are numbers, strings, paths, tuples and further frozen dataclasses, so that a run can be written to a file and rebuilt
from it. A variant calls another recipe and replaces fields (`dataclasses.replace`). The module of a recipe imports nothing
that takes long, such as torch; `run` does, so that recipes are listed and shown at once.

A recipe is found by its name (`train-small`), in a Python file, or in the folder of an earlier run.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar, runtime_checkable

from dreamsim_guidance.files.names import suggestion

__all__ = ["Config", "Recipe", "build", "function_source", "load", "recipe", "recipes", "suggestion"]


@runtime_checkable
class Config(Protocol):
    """What a recipe returns: a frozen dataclass that can be run in a folder."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Do the work in `folder`, resume what an interrupted run left there, and return results that fit into JSON."""


Build = TypeVar("Build", bound=Callable[[], Any])


def recipe(build: Build) -> Build:
    """Mark a function without arguments as a recipe.

    Raises TypeError if the function has no docstring or takes arguments.
    """
    name = getattr(build, "__name__", "?")
    if not inspect.getdoc(build) and sys.flags.optimize < 2:  # python -OO leaves no docstrings
        raise TypeError(f"recipe {name} needs a docstring: its first line is shown by `dreamsim-guidance recipes`.")
    if inspect.signature(build).parameters:
        raise TypeError(f"recipe {name} must take no arguments; make them fields of the dataclass that it returns.")
    build.__recipe__ = name.replace("_", "-")  # type: ignore[attr-defined]
    return build


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A resolved recipe.

    config: the dataclass that the function returned, perhaps with fields replaced.
    source: the text of the file that defines the recipe.
    path: that file.
    module: the name under which it was imported.
    """

    name: str
    config: Any
    source: str
    path: Path
    module: str

    @property
    def seed(self) -> int | None:
        return getattr(self.config, "seed", None)


def recipes() -> dict[str, Callable[[], Any]]:
    """The functions of this package's recipes by name. A module that cannot be imported raises its own error."""
    package = importlib.import_module("dreamsim_guidance.recipes")
    functions: dict[str, Callable[[], Any]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        functions.update(_recipes_of(importlib.import_module(f"{package.__name__}.{info.name}")))
    return dict(sorted(functions.items()))


def load(target: str | Path) -> Recipe:
    """The recipe behind a name, a file (`mine.py`, or `mine.py:name` if it holds several) or a run folder.

    Raises FileNotFoundError or ValueError, which name what was looked for and what exists.
    """
    text, functions = str(target), recipes()
    if text.replace("_", "-") in functions:
        return build(functions[text.replace("_", "-")])
    path = Path(text)
    if path.is_dir():
        from dreamsim_guidance.experiment.run_folder import read_recipe

        return read_recipe(path)
    file, _, name = text.partition(".py:")
    if path.suffix == ".py" or name:
        return load_file(Path(f"{file}.py") if name else path, name or None)
    raise ValueError(
        f"unknown recipe '{target}'{suggestion(text, functions)}; known: {', '.join(functions)}, or a .py file or a run "
        "folder."
    )


def load_file(path: Path, name: str | None = None) -> Recipe:
    """The recipe `name` of a Python file; without a name the file must hold exactly one."""
    functions = _recipes_of(load_module(path))
    if not functions:
        raise ValueError(
            f"'{path}' holds no recipe; decorate a function with @dreamsim_guidance.experiment.registry.recipe."
        )
    names = ", ".join(functions)
    if name is None and len(functions) > 1:
        raise ValueError(
            f"'{path}' holds several recipes; name one, e.g. {path.as_posix()}:{next(iter(functions))}; it has: {names}."
        )
    key = next(iter(functions)) if name is None else name.replace("_", "-")
    if key not in functions:
        raise ValueError(f"'{path}' holds no recipe '{name}'{suggestion(key, functions)}; it has: {names}.")
    return build(functions[key])


def load_module(path: Path) -> ModuleType:
    """Execute a file as a module of its own; meanwhile modules beside it can be imported, as in `python file.py`.

    Raises FileNotFoundError if there is no such file, and ValueError if it cannot be executed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"recipe file not found: '{path}'; `dreamsim-guidance copy NAME` writes one to start from."
        )
    path = path.resolve()
    name = f"recipe_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up
    sys.path.insert(0, str(path.parent))
    try:
        # not through the byte-code cache: two edits within a second must both be seen
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"'{path}' cannot be loaded: {type(error).__name__}: {error}{_moved(error)}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _moved(error: Exception) -> str:
    """Advice for a file that imports from where this package's modules were in release 0.1.0."""
    if not isinstance(error, ImportError) or not (error.name or "").startswith("dreamsim_guidance."):
        return ""
    return (
        ". It was written for an earlier release (0.1.0), whose modules lay elsewhere: `recipe` is now in "
        "dreamsim_guidance.experiment.registry, and `dreamsim-guidance copy NAME` writes a new copy of a recipe."
    )


def build(function: Callable[[], Any]) -> Recipe:
    """Call a recipe's function. Raises TypeError if it does not return a frozen dataclass with a method `run`."""
    name = getattr(function, "__recipe__", function.__name__)
    config = function()
    if not dataclasses.is_dataclass(config) or isinstance(config, type) or not isinstance(config, Config):
        raise TypeError(
            f"recipe {name} must return a dataclass with a method run(folder), got {type(config).__name__}."
        )
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"recipe {name} must return a frozen dataclass; write @dataclass(frozen=True).")
    # not inspect.getsourcefile, which a decorator around the function would mislead
    path = Path(sys.modules[function.__module__].__file__ or "")
    return Recipe(name, config, path.read_text(encoding="utf-8"), path, function.__module__)


def function_source(recipe: Recipe) -> str:
    """The text of the recipe's function, decorator and docstring included."""
    for node in ast.parse(recipe.source).body:
        if isinstance(node, ast.FunctionDef) and node.name.replace("_", "-") == recipe.name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return "\n".join(recipe.source.splitlines()[first - 1 : node.end_lineno])
    return recipe.source


def _recipes_of(module: ModuleType) -> dict[str, Callable[[], Any]]:
    return {
        value.__recipe__: value
        for value in vars(module).values()
        if inspect.isfunction(value) and hasattr(value, "__recipe__") and value.__module__ == module.__name__
    }
