"""Run a recipe in a folder of its own, so that what was done can be read there and done again.

A folder that holds the same recipe is resumed; a finished one is left alone; one that holds anything else is refused.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dreamsim_guidance.experiment import run_folder
from dreamsim_guidance.experiment.registry import Recipe
from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.processes import launched, process_state

__all__ = ["Run", "new_folder", "run"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, what it returned, and whether it had been finished before."""

    folder: Path
    results: dict[str, Any]
    before: bool = False


def run(recipe: Recipe, folder: Path, replace: bool = False) -> Run:
    """Run `recipe` in `folder`: new, or resumed if the same recipe was interrupted there.

    With `replace`, an earlier run of a recipe of this name gives way to the new one once that is complete. Raises
    ValueError if the folder holds something else; errors of the recipe pass through, after their traceback was written
    to log.txt. Relative paths in the recipe are made absolute, so that the folder can be run again from anywhere.
    """
    recipe = dataclasses.replace(recipe, config=_absolute(recipe.config))
    if launched():
        return _run_together(recipe, folder)
    if replace and folder.is_dir() and any(folder.iterdir()):
        return _replace(recipe, folder)
    _prepare(recipe, folder)
    return _run_prepared(recipe, folder)


def _run_prepared(recipe: Recipe, folder: Path) -> Run:
    finished = folder / "results.json"
    if finished.is_file():
        return Run(folder, json.loads(finished.read_text(encoding="utf-8")), before=True)
    with _logging(folder / "log.txt"):
        start = time.perf_counter()
        log.info("%s in %s, seed %s", recipe.name, folder, recipe.seed)
        try:
            results = recipe.config.run(folder)
        except BaseException as error:
            log.debug("stopped by %s", type(error).__name__, exc_info=True)
            raise
        log.info("finished after %.1f s", time.perf_counter() - start)
    write_json(finished, results)
    return Run(folder, json.loads(finished.read_text(encoding="utf-8")))


def _run_together(recipe: Recipe, folder: Path) -> Run:
    """As one of several processes (`accelerate launch`, `torchrun`): the main one keeps the folder, all run the recipe."""
    from accelerate.utils import broadcast_object_list

    state = process_state()
    agreed: list[Any] = [folder, None, False]
    if state.is_main_process:
        try:
            _prepare(recipe, folder)
            agreed[2] = (folder / "results.json").is_file()
        except Exception as error:  # told to all, or they would wait for ever
            agreed[1] = error
    broadcast_object_list(agreed)
    folder, error, finished = agreed
    if error is not None:
        raise error
    if finished or state.is_main_process:
        return _run_prepared(recipe, folder)
    return Run(folder, recipe.config.run(folder))


def _replace(recipe: Recipe, folder: Path) -> Run:
    """Run beside the folder and take its place at the end; a run that fails leaves it as it is."""
    if _written(folder).get("recipe") != recipe.name:
        raise ValueError(f"'{folder}' holds another recipe, {_written(folder).get('recipe')}; give a new folder.")
    beside = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        done = run(recipe, beside)
        shutil.rmtree(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Run(folder, done.results)


def _absolute(value: Any) -> Any:
    """The config with its relative paths made absolute."""
    if isinstance(value, Path):
        return value.expanduser().absolute()
    if type(value) in (tuple, list):
        return type(value)(_absolute(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        new = {name: _absolute(item) for name, item in old.items()}
        return value if new == old else dataclasses.replace(value, **new)
    return value


def new_folder(name: str, parent: Path = Path("runs")) -> Path:
    """`runs/<name>-<date>-<time>`, numbered if it exists."""
    folder = first = parent / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 2
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder


def _prepare(recipe: Recipe, folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file; give a folder.")
    if not folder.exists() or not any(folder.iterdir()):
        run_folder.create(folder, recipe)
        return
    there, here = _written(folder), run_folder.describe(recipe)
    if there.get("recipe") != recipe.name:
        raise ValueError(f"'{folder}' holds another recipe, {there.get('recipe')}; give a new folder.")
    if there.get("config") != here["config"]:
        fields = ", ".join(_differences(there.get("config"), here["config"]))
        raise ValueError(f"'{folder}' holds {recipe.name} with other fields ({fields}); give a new folder.")
    if (folder / "recipe.py").read_text(encoding="utf-8") != recipe.source:
        raise ValueError(
            f"'{folder}' was started with another version of the source of {recipe.name}; resume that with "
            f"`dreamsim-guidance run {folder} --resume`, or give a new folder."
        )


def _written(folder: Path) -> dict[str, Any]:
    """The content of the folder's recipe.json."""
    file = folder / "recipe.json"
    if not file.is_file():
        raise ValueError(f"'{folder}' is neither empty nor a run folder; give a new folder.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{file}' is not JSON ({error}); give a new folder.") from error
    return content if isinstance(content, dict) else {}


def _differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the fields that differ between two encoded configs."""
    if (
        isinstance(there, dict)
        and isinstance(here, dict)
        and there.get("type") == here.get("type")
        and "fields" in here
    ):
        for field in sorted({*there["fields"], *here["fields"]}):
            yield from _differences(there["fields"].get(field), here["fields"].get(field), f"{name}.{field}")
    elif there != here:
        yield name.lstrip(".") or "its dataclass"


@contextmanager
def _logging(file: Path) -> Iterator[None]:
    """Log to the file (everything) and to stderr (INFO and above, without breaking a progress bar)."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    to_file = logging.FileHandler(file, encoding="utf-8")
    to_file.setFormatter(form)
    to_screen = _BesideProgressBar(logging.INFO)
    root, ours = logging.getLogger(), logging.getLogger("dreamsim_guidance")
    level, own_level = root.level, ours.level
    root.setLevel(min(level, logging.INFO) or logging.INFO)
    ours.setLevel(logging.DEBUG)
    for handler in (to_file, to_screen):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (to_file, to_screen):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        ours.setLevel(own_level)


class _BesideProgressBar(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
