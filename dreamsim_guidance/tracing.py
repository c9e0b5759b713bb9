"""How torch runs the code at this moment: compiled, recorded, inside a transform, with fake tensors, under autocast."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch._guards import active_fake_mode

__all__ = ["recording", "transforms_active", "values_unknown", "without_autocast"]


class _Recording(threading.local):
    """Whether this thread records a function as a CUDA graph (see `capture`), in which no value may be read."""

    active = False

    @contextmanager
    def on(self) -> Iterator[None]:
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before


recording = _Recording()


def values_unknown() -> bool:
    """Whether the values of tensors cannot be read now: in `torch.compile`, in `torch.vmap`, or with fake tensors.

    `guidance.plan` runs with fake tensors.
    """
    return torch.compiler.is_compiling() or active_fake_mode() is not None or _vectorized()


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations on `device` compute in the precision of their arguments."""
    # devices without autocast, such as "meta", raise when it is switched off
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def transforms_active() -> bool:
    """Whether this runs inside a transform of `torch.func`: grad, vmap, jvp, jacrev, ...

    Transforms refuse custom autograd functions, tensor hooks and changes of captured tensors. A tensor that is made inside
    a transform belongs to it and must not be cached.
    """
    return torch._C._are_functorch_transforms_active()  # as torch's own autograd.Function asks


def _vectorized() -> bool:
    if not transforms_active():
        return False
    vmap = torch._C._functorch.TransformType.Vmap
    return any(level.key() == vmap for level in torch._C._functorch.get_interpreter_stack() or ())
