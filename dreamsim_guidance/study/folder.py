"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_free", "new_folder"]


def check_free(folder: Path) -> None:
    """Raise ValueError if there is a file, or a folder with anything in it."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"'{folder}' exists already and is not an empty folder; give another one with --to.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and else vanishes."""
    check_free(folder)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield beside
        beside.chmod(0o755)
        if folder.exists():
            folder.rmdir()  # only an empty one can be; Windows does not rename onto it
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
