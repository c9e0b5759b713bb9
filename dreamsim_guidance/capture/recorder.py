"""What records and replays: CUDA graphs, in memory that they share."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["CUDA", "CudaRecorder", "Recorder", "Replay"]

Replay = Callable[[], object]
"""Computes the outputs of a recording anew, into the same tensors, from what its inputs hold now."""


@runtime_checkable
class Recorder(Protocol):
    """What records and replays on one kind of device. `CudaRecorder` is the real one; tests use one for the CPU."""

    def accepts(self, device: torch.device) -> bool:
        """Whether functions of tensors on this device can be recorded."""

    def turn(self, device: torch.device) -> Any:
        """A context for one replay or recording at a time, ordered on the device after the previous one."""

    def record(
        self, work: Callable[[], tuple[Tensor, ...]], device: torch.device, owner: object = None
    ) -> tuple[Replay, tuple[Tensor, ...]]:
        """Record a call of `work`; return its replay and the tensors that hold the results. Raises what `work` raises.

        owner: recordings of the same owner share the memory of their intermediate results.
        """

    def rehearse(self, work: Callable[[], tuple[Tensor, ...]], device: torch.device) -> tuple[Tensor, ...]:
        """Call `work` as it will be recorded, without recording it."""


class CudaRecorder:
    """Records with `torch.cuda.CUDAGraph`. One object serves the whole process: see `Graphs`.

    Graphs of one owner share one memory pool per device. This is safe because a replay begins on the device after the previous
    one has ended, also where it was launched on another stream, and results are copied out before the next.
    """

    def __init__(self) -> None:
        self._devices: dict[int, _Device] = {}

    def accepts(self, device: torch.device) -> bool:
        return device.type == "cuda"

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        place = self._of(device)
        with place.lock, torch.cuda.device(device):
            stream = torch.cuda.current_stream()
            if place.done is not None:
                stream.wait_event(place.done)
            try:
                yield
            finally:
                place.done = place.done or torch.cuda.Event()
                place.done.record(stream)

    def rehearse(self, work: Callable[[], tuple[Tensor, ...]], device: torch.device) -> tuple[Tensor, ...]:
        with self._aside(device):
            return work()

    def record(
        self, work: Callable[[], tuple[Tensor, ...]], device: torch.device, owner: object = None
    ) -> tuple[Replay, tuple[Tensor, ...]]:
        pools, owner = self._of(device).pools, self if owner is None else owner
        pool, graphs = pools.get(owner, (None, ()))
        if not graphs:  # torch does not take up a pool again that no graph uses any more
            pool, graphs = torch.cuda.graph_pool_handle(), weakref.WeakSet()
            pools[owner] = pool, graphs
        graph = torch.cuda.CUDAGraph()
        with self._aside(device) as stream, _own_workspaces(), _without_collection():
            try:
                # "thread_local": other threads may allocate memory and synchronise meanwhile
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    outputs = work()
            except BaseException:
                _tidy(graph, stream, pool)
                del pools[owner]  # the next recording does not rely on its state
                raise
        graphs.add(graph)
        return graph.replay, outputs

    @contextmanager
    def _aside(self, device: torch.device) -> Iterator[torch.cuda.Stream]:
        """The device's stream for recordings, which cannot be made on the default stream."""
        place, outside = self._of(device), torch.cuda.current_stream(device)
        place.stream = place.stream or torch.cuda.Stream(device)
        place.stream.wait_stream(outside)
        try:
            with torch.cuda.stream(place.stream):
                yield place.stream
        finally:
            outside.wait_stream(place.stream)

    def _of(self, device: torch.device) -> _Device:
        index = torch.cuda.current_device() if device.index is None else device.index
        return self._devices.setdefault(index, _Device())

    def __reduce__(self) -> Any:  # copies and pickles stand for the one object of the process
        return _cuda_recorder, ()


class _Device:
    """What the recordings of one device share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stream: torch.cuda.Stream | None = None
        self.pools: weakref.WeakKeyDictionary[Any, tuple[Any, Any]] = weakref.WeakKeyDictionary()
        """By owner: a pool, and the graphs that use it."""
        self.done: torch.cuda.Event | None = None
        """Recorded on the stream of the last replay, behind it."""


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python from collecting garbage: a graph that is destroyed in the middle of a recording breaks the recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """Let a recording allocate cuBLAS workspaces of its own, in its pool.

    Others may be freed while a graph still works in them, as `torch.compile(mode="reduce-overhead")` does.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


def _tidy(graph: Any, stream: Any, pool: Any) -> None:
    """Leave a recording that was broken off, where this version of torch does not do so itself.

    Otherwise the allocator goes on filling the pool, keeps it for good, and the device's random numbers cannot be drawn.
    """
    if hasattr(graph, "capture_end_pre"):  # torch 2.14 on
        return
    with suppress(RuntimeError):
        graph.pool()  # raises unless the recording ended in order
        return
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):  # the latter before torch 2.8
        with suppress(Exception):
            getattr(torch._C, name)(stream.device_index, pool)
            break
    with suppress(Exception):
        torch._C._cuda_releasePool(stream.device_index, pool)
    with (
        suppress(Exception),
        torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream, capture_error_mode="thread_local"),
    ):
        # a recording that ends in order ends the generator's state of being recorded
        torch.zeros(1, device=stream.device)


CUDA = CudaRecorder()
"""The one of this process."""


def _cuda_recorder() -> CudaRecorder:
    return CUDA
