"""Methods replaced on instances, and put back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Patches"]


class Patches:
    """A context in which instances have other methods; at its end their dictionaries are as they were."""

    def __init__(self) -> None:
        self._kept: list[tuple[Any, str, dict[str, Any]]] = []

    def replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """From now on `owner.name(...)` is `function(original, ...)`; nothing happens where there is no such method."""
        if owner is None or not hasattr(owner, name):
            return
        original = getattr(owner, name)

        # signatures are looked at: diffusers asks schedulers whether they take `sigmas` or `eta`
        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        self._kept.append((owner, name, {name: vars(owner)[name]} if name in vars(owner) else {}))
        vars(owner)[name] = replacement

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._kept:
            owner, name, own = self._kept.pop()
            vars(owner).pop(name, None)
            vars(owner).update(own)

    def __enter__(self) -> Patches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()
