"""Numbers on their way to the host, and numbers that are there already: guidance must not wait for the device at every step.

Reading one element of a tensor on a GPU waits for everything that was launched before, the denoiser included. Schedulers keep
their tables and timesteps on the device, and they do not change during a run: `number` reads a table once. Losses and norms for
a log are needed later: `HostCopy` lets them travel behind the work that computes them.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.tracing import values_unknown

__all__ = ["HostCopy", "number"]

_LARGEST = 100_000
"""Number of elements up to which a table is read as a whole; diffusion schedules have a thousand."""

_tables: OrderedDict[tuple[int, torch.dtype], tuple[Tensor, int, list[float]]] = OrderedDict()
"""By address and dtype: the tensor itself, which keeps the address in use, its version, and its elements."""

_lock = threading.Lock()


def number(value: Any) -> float:
    """`float(value)` of a number or of a tensor with one element, which may be an element of a table.

    The table, a tensor of which `value` is a view, is read as a whole the first time, and again after a change in place.
    """
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_inference() or value.is_meta or values_unknown():
        return float(value)
    table = value if value._base is None else value._base
    if table.numel() > _LARGEST or not table.is_contiguous() or table.dtype != value.dtype:
        return float(value)
    key = (table.data_ptr(), table.dtype)
    with _lock:
        entry = _tables.get(key)
        if entry is None or entry[1] != table._version or entry[0].numel() != table.numel():
            entry = (table.detach(), table._version, [float(x) for x in table.detach().flatten().tolist()])
            _tables[key] = entry
            while len(_tables) > 16:
                _tables.popitem(last=False)
        _tables.move_to_end(key)
    return entry[2][value.storage_offset() - table.storage_offset()]


class HostCopy:
    """A tensor that is being copied to the host; reading it waits for what computes it, not for what was launched later."""

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        self._read: Callable[[Any], Any] = _as_they_are
        self._tensor = tensor.detach()
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor.detach(), non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(tensor.device))

    @classmethod
    def of_several(cls, *tensors: Tensor) -> list[HostCopy]:
        """Copies of vectors on one device that travel together, which costs a launch and a copy for all of them."""
        together = cls(torch.cat(tensors))
        return [together._part(part) for part in together._tensor.split([len(tensor) for tensor in tensors])]

    def _part(self, tensor: Tensor) -> HostCopy:
        part = copy.copy(self)
        part._tensor = tensor
        return part

    def sum(self) -> HostCopy:
        """The same copy, read as the sum of its values, a whole number."""
        total = copy.copy(self)
        total._read = _whole_sum
        return total

    @property
    def arrived(self) -> bool:
        """Whether reading waits for nothing."""
        return self._done is None or self._done.query()

    def tolist(self) -> Any:
        """The values, as `Tensor.tolist` gives them."""
        if self._done is not None:
            self._done.synchronize()
        return self._read(self._tensor.tolist())


def _as_they_are(values: Any) -> Any:
    return values


def _whole_sum(values: Any) -> int:
    return int(sum(values))
