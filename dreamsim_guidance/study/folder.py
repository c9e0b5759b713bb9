"""The folder into which a study is written."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["check_free", "is_there"]


def check_free(folder: Path) -> None:
    """Raise ValueError if `folder` is a file, or a folder that is not empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"'{folder}' exists already and is not an empty folder; give another one with --to.")


def is_there(folder: Path, name: str, id: str) -> bool:
    """Whether the folder holds the result with this identifier, according to its JSON file `name`."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("id") == id
