"""Where downloaded weights live, whether the network may be used, and one process at a time.

The cache is one folder per user, in the place that the desktop standard gives to caches. It has the layout of the
original package's `cache_dir`, so that folder can be used as ours:

    <cache>/clip_vitb16_pretrain.pth.tar, <cache>/ensemble_lora/, <cache>/checkpoints/dino_vitbase16_pretrain.pth, ...
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["cache_folder", "is_offline", "locked"]

log = logging.getLogger(__name__)

_TRUE = {"1", "on", "yes", "true"}


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The absolute path of the weights' cache; the folder need not exist yet.

    The first that is set: `cache_dir`, the environment variable `DREAMSIM_GUIDANCE_CACHE`, then
    `$XDG_CACHE_HOME/dreamsim_guidance`, which is `~/.cache/dreamsim_guidance` by default. Never the current folder,
    unless `cache_dir` or the variable names it.
    """
    chosen = cache_dir if cache_dir is not None else os.environ.get("DREAMSIM_GUIDANCE_CACHE")
    if chosen is not None and os.fspath(chosen) != "":
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # unset, empty, or relative: the standard says to ignore a relative one
        base = Path.home() / ".cache"
    return base / "dreamsim_guidance"


def is_offline(offline: bool | None = None) -> bool:
    """Whether nothing may be downloaded: `offline`, or if None, `DREAMSIM_GUIDANCE_OFFLINE` or `HF_HUB_OFFLINE`."""
    if offline is not None:
        return offline
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("DREAMSIM_GUIDANCE_OFFLINE", "HF_HUB_OFFLINE"))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `<path>.lock`, waiting for whoever holds it; the file is removed at the end, also after an error.

    A killed process leaves the file but not the lock. On a file system without locks this does nothing: two downloads
    of the same file then need to be kept apart by the user.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    if fcntl is None:
        from filelock import FileLock  # a requirement of torch and of huggingface_hub

        with FileLock(lock):
            yield
        return
    handle = _acquire(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock is let go: _acquire notices that the name is gone
        os.close(handle)


def _acquire(lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("waiting for another process that holds %s", lock)
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                log.warning("%s: this file system has no locks", lock.parent)
                return handle
            os.close(handle)
            raise
        except BaseException:
            os.close(handle)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.stat(lock).st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # the former holder removed the name while we waited: this lock guards nothing any more
