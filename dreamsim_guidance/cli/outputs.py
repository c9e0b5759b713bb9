"""Files that a command writes besides printing: their places are checked before the work, and they are written last.

Results are printed first, so that a full disk or a removed folder costs a file and not the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

__all__ = ["check_file", "check_folder", "check_picture", "write_files"]


def check_file(file: Path, option: str) -> None:
    """Raise ValueError for a folder, OSError for a place where no file can be written; missing folders are created.

    `option` names what the user gave, such as --html.
    """
    if file.is_dir():
        raise ValueError(f"'{file}' is a folder; give the file to write, as {option} {file / 'report.html'}.")
    check_folder(file.parent, option)


def check_picture(file: Path, option: str, endings: Collection[str]) -> None:
    """As `check_file`, and raise ValueError for an ending other than `endings`, by which no picture can be written."""
    if file.suffix.lower() not in endings:
        ending = f"the ending {file.suffix}" if file.suffix else "no ending"
        raise ValueError(
            f"'{file}' has {ending}, by which no picture can be written; give {option} a name such as a.png."
        )
    check_file(file, option)


def check_folder(folder: Path, option: str) -> None:
    """Create the folder if it is missing; raise OSError if files cannot be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"'{folder}' cannot be written; give another place for {option}.")


def write_files(writers: Mapping[Path, Callable[[Path], object]]) -> None:
    """Call each writer with its file, all of them even if one fails; then raise the first error.

    Written files and further errors are reported on stderr.
    """
    failures: list[Exception] = []
    sys.stdout.flush()
    for file, write in writers.items():
        try:
            write(file)
        except Exception as error:  # a full disk, but also a picture that has been removed since it was judged
            if failures:
                print(f"'{file}' was not written: {error}", file=sys.stderr)
            failures.append(error)
        else:
            print(f"written: {file}", file=sys.stderr)
    if failures:
        raise failures[0]
