"""The folder of a plan: begun with plan.json, and refused to any other plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.generation.plan import Plan

__all__ = ["begun", "check_folder"]

_FORMAT = "dreamsim_guidance plan 1"
_FREE = ("screen", "shares", "split_by")
"""Parts of a plan on which no picture depends."""
_LOCK = ".lock"


def check_folder(folder: Path, plan: Plan) -> None:
    """Raise ValueError for a folder that holds the pictures of another plan, or something else. Writes nothing."""
    file = folder / "plan.json"
    if file.is_file():
        before, content = _read(file), _content(plan)
        changed = [key for key in content if key not in _FREE and before.get(key) != content[key]]
        if changed:
            raise ValueError(
                f"'{folder}' holds the pictures of another plan, which differs in {', '.join(changed)}; give another folder "
                "with --to."
            )
    elif folder.exists() and (not folder.is_dir() or any(not _is_temporary(path) for path in folder.iterdir())):
        raise ValueError(f"'{folder}' exists already and is not an empty folder; give another one with --to.")


@contextmanager
def begun(folder: Path, plan: Plan) -> Iterator[None]:
    """Write plan.json, and keep other processes out of the folder in the block.

    Files that a killed process was writing are removed. Raises as `check_folder`, BlockingIOError if another process is at work
    in the folder, and OSError if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        check_folder(folder, plan)
        write_json(folder / "plan.json", _content(plan))
        for kind in ("ref", "distort"):
            for path in (folder / kind).glob("*/.*.png"):
                path.unlink()
        yield


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"another process generates into '{folder}'; wait until it has finished, or end it."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _content(plan: Plan) -> dict[str, Any]:
    return {"format": _FORMAT, **plan.to_dict()}


def _is_temporary(path: Path) -> bool:
    """Whether this is what a run left that was killed before plan.json was written."""
    return path.name == _LOCK or (path.name.startswith(".plan-") and path.suffix == ".json")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{file}' is not the record of a plan ({error}); give another folder with --to.") from error
    return content
