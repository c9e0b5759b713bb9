"""The folder that keeps downloaded weights, and locks for its files.

The cache is one folder per user, where the XDG standard puts caches. It has the layout of the original package's
`cache_dir`, so that such a folder can be used as the cache:

    <cache>/clip_vitb16_pretrain.pth.tar, <cache>/ensemble_lora/, <cache>/checkpoints/dino_vitbase16_pretrain.pth, ...
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

__all__ = ["cache_folder", "locked"]

log = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems without locks; filelock itself handles ENOSYS only."""


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The absolute path of the cache of weights; the folder need not exist yet.

    The first that is set of `cache_dir`, the environment variable `DREAMSIM_GUIDANCE_CACHE` and
    `$XDG_CACHE_HOME/dreamsim_guidance`; else `~/.cache/dreamsim_guidance`. It is the current folder only if `cache_dir` or the
    variable names that.
    """
    chosen = cache_dir if cache_dir is not None else os.environ.get("DREAMSIM_GUIDANCE_CACHE")
    if chosen is not None and os.fspath(chosen) != "":
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # unset, empty, or relative: the standard says to ignore a relative one
        base = Path.home() / ".cache"
    return base / "dreamsim_guidance"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `<path>.lock` in this block, after waiting for whoever holds it; then remove the file, also after an error.

    A killed process leaves the file but not the lock. On a file system without locks, the existence of `<path>.lock.owner`
    is the lock: the file names the process that created it, and no longer counts once that process has ended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(path.name + ".lock")
    try:
        lock: BaseFileLock = _acquired(FileLock(name))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; the file %s.owner takes their place", name.parent, name.name)
        with contextlib.suppress(OSError):
            name.unlink()  # left by the attempt
        name = path.with_name(path.name + ".lock.owner")
        lock = _acquired(SoftFileLock(name))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove open files
            name.unlink()  # before the lock is released: waiting processes notice that the file is gone
        lock.release()


def _acquired(lock: BaseFileLock) -> BaseFileLock:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process that holds %s", lock.lock_file)
        lock.acquire()
    return lock
