"""Whether what a recorded function reads is still what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_globals

__all__ = ["Watch"]


class Watch:
    """Modules and tensors that a function reads beside its inputs, and whether they are still what they were.

    modules: with all their submodules. Modules inside a tuple, where `nn.Module` does not find them, have to be named.
    tensors: gives the others.

    Changes of weights in place are no change: a replay reads the new values. The checks run before every replay, over hundreds
    of modules, so their loops are those of builtin functions.
    """

    def __init__(self, modules: Iterable[nn.Module], tensors: Callable[[], Sequence[Tensor | None]] = tuple) -> None:
        parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
        variables: list[Any] = [vars(part) for part in parts]
        self._variables = variables
        self._submodules = [d for d in (v["_modules"] for v in variables) if d]
        self._tables = [d for v in variables for d in (v["_parameters"], v["_buffers"]) if d]
        names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        self._hooks = [v[name] for v in variables for name in names]
        self._others = tensors
        self._before, self._sizes = self._state(), self._counts()
        self._replaced = self._has_replaced_forward()

    def changed(self) -> bool:
        """Whether a module or tensor was replaced or moved, or a module's mode switched, since this object was made."""
        before, now = self._before, self._state()
        return (
            len(before[0]) != len(now[0])
            or not all(map(is_, before[0], now[0]))
            or before[1:] != now[1:]  # addresses and modes: numbers, which can be compared by value
        )

    def obstacle(self) -> str | None:
        """Why the function must be run as it is at the moment; None if it may be replayed."""
        counts = self._counts()
        if counts != self._sizes:  # attributes were added or removed
            self._replaced, self._sizes = self._has_replaced_forward(), counts
        if self._replaced or any(self._hooks) or _global_hooks():
            return "a module has hooks or a replaced forward, which a graph would leave out"
        if torch.is_grad_enabled() and any(map(_requires_grad, self._tensors())):
            return "parameters require a gradient, which a graph does not compute"
        return None

    def _state(self) -> tuple[list[object], list[int], list[bool]]:
        tensors = self._tensors()
        modules = chain.from_iterable(map(_values, self._submodules))
        return [*modules, *tensors], list(map(_address, tensors)), list(map(_mode, self._variables))

    def _tensors(self) -> list[Tensor]:
        return [x for x in (*chain.from_iterable(map(_values, self._tables)), *self._others()) if x is not None]

    def _counts(self) -> list[int]:
        return list(map(len, self._variables))

    def _has_replaced_forward(self) -> bool:
        return any("forward" in variables for variables in self._variables)


_values, _mode = dict.values, itemgetter("training")
_address, _requires_grad = Tensor.data_ptr, attrgetter("requires_grad")


def _global_hooks() -> bool:
    names = (
        "_global_forward_hooks",
        "_global_forward_pre_hooks",
        "_global_backward_hooks",
        "_global_backward_pre_hooks",
    )
    return any(getattr(module_globals, name) for name in names)
