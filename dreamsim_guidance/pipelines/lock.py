"""Locks that let one thread at a time work with a scheduler, whose state is shared by all runs through it."""

from __future__ import annotations

import threading
import weakref
from typing import Any

__all__ = ["Lock", "lock_of"]


class Lock:
    """A reentrant lock that any thread may release, unlike `threading.RLock`: a generator may be resumed in another thread."""

    def __init__(self) -> None:
        self._free, self._owner, self._count = threading.Condition(), 0, 0

    def acquire(self) -> None:
        """Wait until no other thread holds the lock."""
        with self._free:
            self._free.wait_for(lambda: self._count == 0 or self._owner == threading.get_ident())
            self._owner, self._count = threading.get_ident(), self._count + 1

    def release(self) -> None:
        """Release once; the lock is free after as many releases as acquisitions."""
        with self._free:
            self._count -= 1
            self._free.notify_all()


_locks: weakref.WeakKeyDictionary[Any, Lock] = weakref.WeakKeyDictionary()
_guarding = threading.Lock()


def lock_of(owner: Any) -> Lock:
    """The lock that belongs to an object for as long as the object lives."""
    with _guarding:
        return _locks.setdefault(owner, Lock())
