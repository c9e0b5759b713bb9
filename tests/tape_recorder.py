"""A stand-in for CUDA graphs on the CPU: a tape of operations, played again on the same memory.

Like a graph, it knows nothing of the Python code it was made from: numbers are constants, and tensors are the memory that they
had during the recording.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TapeRecorder:
    """Records functions of tensors on the CPU.

    `recorded` and `replayed` count. `spoil` changes the first result of every replay; `fail` is raised by `record`.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.inside, self.most_inside = 0, 0
        self.spoil = 0.0
        self.fail: Exception | None = None
        self._lock = threading.RLock()

    def accepts(self, device: torch.device) -> bool:
        return device.type == "cpu"

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            yield
            self.inside -= 1

    def rehearse(self, work: Callable[[], tuple[Tensor, ...]], device: torch.device) -> tuple[Tensor, ...]:
        return work()

    def record(
        self, work: Callable[[], tuple[Tensor, ...]], device: torch.device, owner: object = None
    ) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        if self.fail is not None:
            raise self.fail
        tape = _Tape()
        with tape:
            outputs = work()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
                tape.play()
                outputs[0].add_(self.spoil)

        return replay, outputs

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def __deepcopy__(self, memo: Any) -> TapeRecorder:
        return self  # there is one device


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        new = [
            (place, x)
            for place, x in enumerate(tree_leaves(results))
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in inputs  # views and changes in place stay
        ]
        self._operations.append((func, args, kwargs, new))
        return results

    def play(self) -> None:
        for func, args, kwargs, new in self._operations:
            results = tree_leaves(func(*args, **kwargs))
            for place, memory in new:
                with torch.autograd._unsafe_preserve_version_counter(memory):  # a graph's writes are not counted either
                    memory.detach().copy_(results[place])
