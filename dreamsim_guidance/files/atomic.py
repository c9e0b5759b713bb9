"""Write files and folders that appear whole or not at all.

The content is written under a temporary name beside its destination, which is then renamed onto it. Permissions follow
the process's umask, as for any file that `open` creates: files 0o666 & ~umask, folders 0o777 & ~umask. Whatever goes wrong
while writing, a full disk included, is raised and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["new_folder", "plain", "write_json", "write_tensors", "write_text", "writing"]

_ATTEMPTS = 100
"""Random names to try before giving up; a single collision is already improbable."""

T = TypeVar("T")


@contextmanager
def writing(path: Path, ending: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else remove it.

    path: the destination. Missing parent folders are created. An existing file is replaced.
    ending: the end of the temporary name, by default that of `path`. Writers such as PIL choose the format by it; give
        another one where readers list the folder by ending.

    Raises what the block raises, and OSError if the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = path.suffix if ending is None else ending
    temporary, mode = _create(path, ending, _create_file)
    try:
        yield temporary
        temporary.chmod(mode)  # some writers, safetensors among them, create files that only their owner may read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; rename it to `folder` if the block succeeds, else remove it.

    `folder` must be absent or empty. Raises what the block raises, and OSError if `folder` holds something or its parent
    cannot be written.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, mode = _create(folder, "", os.mkdir)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(mode & 0o666)  # see `writing`
        if folder.exists():
            folder.rmdir()  # refuses a folder that is not empty; Windows cannot rename onto an existing one
        os.replace(temporary, folder)
        folder.chmod(mode)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _create_file(name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _create(path: Path, ending: str, create: Callable[[str], None]) -> tuple[Path, int]:
    """A new file or folder beside `path`, writable by its owner, and the permissions that it shall have in the end.

    They are read from what the operating system made of the umask: setting the umask, the only other way to learn it,
    would affect all threads of the process.
    """
    for _ in range(_ATTEMPTS):
        temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{ending}")
        with contextlib.suppress(FileExistsError):
            create(os.fspath(temporary))
            mode = stat.S_IMODE(temporary.stat().st_mode)
            temporary.chmod(mode | (stat.S_IRWXU if temporary.is_dir() else stat.S_IRUSR | stat.S_IWUSR))
            return temporary, mode
    raise FileExistsError(f"no free temporary name beside '{path}'; remove the files named .{path.stem}-*.")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; a lone surrogate, as of a file name that is not UTF-8, becomes a backslash escape."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as standard JSON: NaN as null, infinities and paths as strings, tensors and arrays as lists."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """`value` in the types that JSON has; a number that is not defined, NaN, is None there."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def write_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """`safetensors.torch.save_file`, except that a full disk and the like raise OSError.

    Not atomic by itself: give it the path that `writing` yields.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), file, None if metadata is None else dict(metadata))
    except SafetensorError as error:  # not an OSError, although it repeats the operating system's words
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise OSError(f"'{file}' cannot be written: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(file)) from error
