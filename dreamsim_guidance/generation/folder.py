"""The folder of a plan: begun with plan.json, and refused to any other plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.generation.plan import Plan

__all__ = ["begin", "check_folder"]

_FORMAT = "dreamsim_guidance plan 1"
_FREE = ("screen", "shares", "split_by")
"""Parts of a plan on which no picture depends."""


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


def begin(folder: Path, plan: Plan) -> None:
    """Write plan.json. Raises as `check_folder`, and OSError if the folder cannot be written."""
    check_folder(folder, plan)
    write_json(folder / "plan.json", _content(plan))


def _content(plan: Plan) -> dict[str, Any]:
    return {"format": _FORMAT, **plan.to_dict()}


def _is_temporary(path: Path) -> bool:
    """Whether this is what a run left that was killed while it wrote plan.json."""
    return path.name.startswith(".plan-") and path.suffix == ".json"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
    except ValueError as error:
        raise ValueError(f"'{file}' is not the record of a plan ({error}); give another folder with --to.") from error
    return content
