"""The folder into which a study is written."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_free"]


def check_free(folder: Path) -> None:
    """Raise ValueError if `folder` is a file, or a folder that is not empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"'{folder}' exists already and is not an empty folder; give another one with --to.")
