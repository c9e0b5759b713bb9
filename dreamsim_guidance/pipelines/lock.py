"""One thread at a time works with a scheduler, whose state all runs through it share."""

from __future__ import annotations

import threading
import weakref
from typing import Any

__all__ = ["Lock", "lock_of"]


class Lock:
    """Like `threading.RLock`, but any thread may release it: a generator can go on in another one."""

    def __init__(self) -> None:
        self._free, self._owner, self._count = threading.Condition(), 0, 0

    def acquire(self) -> None:
        """Wait until no other thread has it."""
        with self._free:
            self._free.wait_for(lambda: self._count == 0 or self._owner == threading.get_ident())
            self._owner, self._count = threading.get_ident(), self._count + 1

    def release(self) -> None:
        """Give it back, as often as it was acquired."""
        with self._free:
            self._count -= 1
            self._free.notify_all()


_locks: weakref.WeakKeyDictionary[Any, Lock] = weakref.WeakKeyDictionary()
_guarding = threading.Lock()


def lock_of(thing: Any) -> Lock:
    """The lock of an object, one for as long as the object lives."""
    with _guarding:
        return _locks.setdefault(thing, Lock())
