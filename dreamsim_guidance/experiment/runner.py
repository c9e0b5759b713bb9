"""Run a recipe in a new folder that records what was done, and from which the recipe can be run again.

A run of the same recipe that was interrupted in the folder is resumed, a finished one is left as it is, and a folder that
holds anything else is refused.
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

__all__ = ["FinishedRun", "new_folder", "run"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    results: what the recipe's `run` returned, as results.json holds it.
    before: whether the run was finished before and nothing was done now.
    """

    folder: Path
    results: dict[str, Any]
    before: bool = False


def run(recipe: Recipe, folder: Path, replace: bool = False) -> FinishedRun:
    """Run `recipe` in `folder`, or resume it if the same recipe was interrupted there.

    folder: made if it does not exist. Relative paths in the recipe become absolute, so that the folder can be run again from
        anywhere.
    replace: start anew where the folder holds a run of a recipe of this name, which is replaced once the new run is complete.

    Raises ValueError if the folder holds something else. Errors of the recipe pass through, after their traceback was
    written to log.txt.
    """
    recipe = dataclasses.replace(recipe, config=_absolute(recipe.config))
    from dreamsim_guidance.processes import launched  # imports torch

    if launched():
        return _run_together(recipe, folder)
    if replace and folder.is_dir() and any(folder.iterdir()):
        return _replace(recipe, folder)
    _prepare(recipe, folder)
    return _run_prepared(recipe, folder)


def _run_prepared(recipe: Recipe, folder: Path, shown: Path | None = None) -> FinishedRun:
    """Run in `folder`; `shown` is the folder to name in the log, if it will be another one."""
    finished = folder / "results.json"
    if finished.is_file():
        return FinishedRun(folder, json.loads(finished.read_text(encoding="utf-8")), before=True)
    with _logging(folder / "log.txt"):
        start = time.perf_counter()
        log.info("%s in %s, seed %s", recipe.name, shown or folder, recipe.seed)
        try:
            results = recipe.config.run(folder)
        except BaseException as error:
            log.debug("stopped by %s", type(error).__name__, exc_info=True)
            raise
        log.info("finished after %.1f s", time.perf_counter() - start)
    write_json(finished, results)
    return FinishedRun(folder, json.loads(finished.read_text(encoding="utf-8")))


def _run_together(recipe: Recipe, folder: Path) -> FinishedRun:
    """Run as one of several processes (`accelerate launch`, `torchrun`): the main one keeps the folder, all do the work."""
    from accelerate.utils import broadcast_object_list

    from dreamsim_guidance.processes import process_state

    state = process_state()
    shared: list[Any] = [folder, None, False]  # the folder, the error, whether the run was finished before
    if state.is_main_process:
        try:
            _prepare(recipe, folder)
            shared[2] = (folder / "results.json").is_file()
        except Exception as error:  # raised in all processes, or the others would wait for ever
            shared[1] = error
    broadcast_object_list(shared)
    folder, error, finished = shared
    if error is not None:
        raise error
    if finished or state.is_main_process:
        return _run_prepared(recipe, folder)
    return FinishedRun(folder, recipe.config.run(folder))


def _replace(recipe: Recipe, folder: Path) -> FinishedRun:
    """Run in a folder beside it that takes its place at the end; a run that fails leaves the folder as it is."""
    if _written(folder).get("recipe") != recipe.name:
        raise ValueError(f"'{folder}' holds another recipe, {_written(folder).get('recipe')}; give a new folder.")
    beside = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        _prepare(recipe, beside)
        finished = _run_prepared(recipe, beside, shown=folder)
        shutil.rmtree(folder)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return FinishedRun(folder, finished.results)


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
    earlier, new = _written(folder), run_folder.describe(recipe)
    if earlier.get("recipe") != recipe.name:
        raise ValueError(f"'{folder}' holds another recipe, {earlier.get('recipe')}; give a new folder.")
    run_folder.check_format(folder, earlier)
    if earlier.get("config") != new["config"]:
        fields = ", ".join(_differences(earlier.get("config"), new["config"]))
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


def _differences(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the fields that differ between two encoded configs."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("type") == b.get("type") and "fields" in b:
        for field in sorted({*a["fields"], *b["fields"]}):
            yield from _differences(a["fields"].get(field), b["fields"].get(field), f"{name}.{field}")
    elif a != b:
        yield name.lstrip(".") or "its dataclass"


@contextmanager
def _logging(file: Path) -> Iterator[None]:
    """Log everything to the file, and INFO and above to stderr, above a progress bar if one is shown."""
    to_file = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_screen = _AboveProgressBar(logging.INFO)
    root, library = logging.getLogger(), logging.getLogger("dreamsim_guidance")
    root_level, library_level = root.level, library.level
    root.setLevel(min(root_level, logging.INFO) or logging.INFO)
    library.setLevel(logging.DEBUG)
    for handler in (to_file, to_screen):
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in (to_file, to_screen):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(root_level)
        library.setLevel(library_level)


class _AboveProgressBar(logging.Handler):
    """Writes through tqdm. `tqdm.contrib.logging` does so too, but only for handlers that exist, and ignores their level."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)
