"""Methods replaced on instances for a while.

A replacement belongs to its instance. A copy of the instance, made by `copy.deepcopy` or `pickle` while the replacement
stands, gets its own original method instead, so that it neither changes nor is changed by what happens to the original.
(`copy.copy` shares the replacement, as it shares every other attribute.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any

__all__ = ["Patches"]


class Patches:
    """A context in which methods of instances are replaced; at its end the instances are as they were."""

    def __init__(self) -> None:
        self._replacements: list[_Replacement] = []

    def replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """From now on `owner.name(...)` is `function(original, ...)`; nothing happens if there is no such method."""
        if owner is None or not hasattr(owner, name):
            return
        self._replacements.append(_Replacement(owner, name, function))
        vars(owner)[name] = self._replacements[-1]

    def undo(self) -> None:
        """Restore all methods, the last replacement first."""
        while self._replacements:
            replacement = self._replacements.pop()
            vars(replacement.owner).pop(replacement.name, None)
            vars(replacement.owner).update(replacement.before)

    def __enter__(self) -> Patches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


class _Replacement:
    """A function in place of a method; it has the method's signature, which diffusers inspects."""

    def __init__(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        functools.update_wrapper(self, original)
        self.owner, self.name, self.function, self.original = owner, name, function, original
        self.before = {name: vars(owner)[name]} if name in vars(owner) else {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.original, *args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A copy of the owner gets the replaced method: that of its class, or a copy of the earlier instance attribute."""
        if self.before:
            return _itself, (self.before[self.name],)
        return getattr, (self.owner, self.name)


def _itself(value: Any) -> Any:
    return value
