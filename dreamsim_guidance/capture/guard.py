"""Finding what a graph could not repeat, before it is recorded: reads of values, and copies between host and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Guard"]


class Guard(TorchDispatchMode):
    """Raises where a value would be read back to the host, or copied from it, and lists the memory that comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, Any] = {}
        self._external: dict[int, Any] = {}

    @property
    def external(self) -> list[Any]:
        """Storages that were read and not made inside."""
        return list(self._external.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if _reads_values(func, inputs):
            raise RuntimeError(f"it reads values back to the host ({func})")
        results = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(results) if isinstance(x, Tensor)]
        if str(func).startswith(("aten._to_copy", "aten.copy_")) and len({x.device for x in inputs + outputs}) > 1:
            raise RuntimeError(f"it copies values between devices ({func})")
        for x in inputs:
            storage = x.untyped_storage()
            if storage._cdata not in self._made:
                self._external.setdefault(storage._cdata, storage)
        for x in outputs:
            storage = x.untyped_storage()
            if storage._cdata not in self._external:
                # a weak reference: the address cannot be used again as long as it exists
                self._made.setdefault(storage._cdata, StorageWeakRef(storage))
        return results


def _reads_values(func: Any, inputs: Sequence[Tensor]) -> bool:
    tags = getattr(func, "tags", ())
    if torch.Tag.data_dependent_output in tags:
        return True
    if "index" in str(func):  # by numbers, or by a mask, whose true elements are counted on the host
        return any(x.dtype in (torch.bool, torch.uint8) for x in inputs[1:])
    return torch.Tag.dynamic_output_shape in tags
