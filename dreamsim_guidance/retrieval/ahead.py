"""Work ahead of its use: in a pool of threads with a bounded number of results waiting, and in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["in_background", "mapped_ahead"]

T = TypeVar("T")
R = TypeVar("R")

_END = object()


def mapped_ahead(function: Callable[[T], R], items: Iterable[T], pool: Executor, depth: int) -> Iterator[R]:
    """Yield `function(item)` for each item, in order, computed in the pool up to `depth` items ahead.

    Raises what `function` and the items raise, at the place of the item.
    """
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def in_background(items: Iterable[T], depth: int) -> Iterator[Iterator[T]]:
    """Run an iterator in a thread of its own, up to `depth` items ahead; its exceptions are raised where it is read.

    When the block ends, the thread ends after the item that it is making.
    """
    results: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(result: object) -> bool:
        while not stopped.is_set():
            try:
                results.put(result, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    def read() -> Iterator[T]:
        while True:
            item, error = results.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item

    thread = threading.Thread(target=work, name="reading ahead", daemon=True)
    thread.start()
    try:
        yield read()
    finally:
        stopped.set()
        thread.join()
