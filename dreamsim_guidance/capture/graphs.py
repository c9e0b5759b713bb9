"""Recordings of a function for several kinds of input, and the function itself where it cannot be recorded."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dreamsim_guidance.capture.guard import Guard
from dreamsim_guidance.capture.recorder import CUDA, Recorder, Replay
from dreamsim_guidance.capture.watch import Watch
from dreamsim_guidance.tracing import recording, transforms_active, values_unknown

__all__ = ["Graphs", "Work", "settings"]

log = logging.getLogger(__name__)

Work = Callable[..., tuple[Tensor, ...]]

_TOLERANCE = 2e-2
"""Relative difference (of Euclidean norms) between a replay and the function itself that counts as rounding: the order of sums
may differ, in half precision too. A recording that misses an input is wrong by much more."""

_NOISE = 1e-6
"""Norm of a difference that is rounding whatever the result: gradients at a minimum are nothing but rounding."""


@dataclass
class _Record:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    replay: Replay
    memory: Sequence[Any]
    """What the graph reads: storages of weights, references, tables."""

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replay with these inputs. To be called in a recorder's turn."""
        for buffer, source in zip(self.inputs, inputs, strict=True):
            buffer.copy_(source)
            if buffer.is_cuda:  # the allocator must not hand it on while another stream still works with it
                buffer.record_stream(torch.cuda.current_stream(buffer.device))
        self.replay()
        return tuple(output.clone() for output in self.outputs)


class Graphs:
    """Recordings of one function for several kinds of input; the least recently used is dropped when there are too many.

    recorder: by default the process's `CudaRecorder`. size: largest number of recordings, at least 1.
    apart: keep intermediate results apart from those of other graphs, so that they last until the next replay.

    It may be used from several threads and streams. A copy or a pickle of it starts without recordings.
    """

    def __init__(self, recorder: Recorder | None = None, size: int = 8, apart: bool = False) -> None:
        self.recorder: Recorder = CUDA if recorder is None else recorder
        self.size, self.apart = size, apart
        self._records: OrderedDict[Hashable, _Record] = OrderedDict()
        self._unrecordable: set[Hashable] = set()
        self._logged: set[str] = set()
        self._watch: Watch | None = None

    def __len__(self) -> int:
        """Number of recordings at the moment."""
        return len(self._records)

    def __reduce__(self) -> Any:  # also for copy.deepcopy
        return Graphs, (self.recorder, self.size, self.apart)

    def __call__(
        self, work: Work, inputs: Sequence[Tensor], watch: Callable[[], Watch], key: Hashable = ()
    ) -> tuple[Tensor, ...]:
        """`work(*inputs)`, from a recording where possible. The inputs are detached, and the results have no graph.

        work: returns a tuple of tensors. It may use autograd inside. Whatever it reads beside its inputs must be covered by
            `watch` or `key`, or be changed in place only.
        inputs: tensors on one device that the recorder accepts.
        watch: makes the `Watch` over what `work` reads; called for the first recording and after a change.
        key: what else decides about what `work` does; each key has a recording of its own, as has each shape, dtype, and state
            of autocast.
        """
        plain = tuple(x.detach() for x in inputs)
        results = self.replayed(work, plain, watch, key)
        return work(*plain) if results is None else results

    def replayed(
        self, work: Work, inputs: Sequence[Tensor], watch: Callable[[], Watch], key: Hashable = ()
    ) -> tuple[Tensor, ...] | None:
        """The results of a recording, as in a call; None where `work` has to be run as it is."""
        if values_unknown() or recording.active or _traced(inputs):
            return None
        device = inputs[0].device
        inputs = tuple(x.detach() for x in inputs)
        key = (key, tuple((x.shape, x.dtype, x.device) for x in inputs), settings(device))
        with self.recorder.turn(device):
            return self._replayed(work, inputs, watch, key)

    def release(self) -> None:
        """Drop all recordings and their memory; the next call records anew."""
        for device in {record.inputs[0].device for record in self._records.values()}:
            with self.recorder.turn(device):
                self._forget()
        self._forget()

    def fall_back(self, reason: str) -> None:
        """Say in one line at warning level that the function is run as it is; each reason once."""
        if reason not in self._logged:
            self._logged.add(reason)
            log.warning("not run as a CUDA graph: %s.", reason)

    def _forget(self) -> None:
        self._records.clear()
        self._unrecordable.clear()
        self._watch = None

    def _replayed(
        self, work: Work, inputs: tuple[Tensor, ...], watch: Callable[[], Watch], key: Hashable
    ) -> tuple[Tensor, ...] | None:
        try:
            if self._watch is not None and self._watch.changed():
                self._forget()
            if self._watch is None:
                self._watch = watch()
            obstacle = self._watch.obstacle()
        except RuntimeError as error:  # of tensors without an address, such as sharded ones
            obstacle = f"what it reads cannot be watched, {error}".split("\n")[0].rstrip(". ")
        if obstacle is not None:
            self.fall_back(obstacle)
            return None
        if key in self._unrecordable:
            return None
        record = self._records.get(key)
        if record is not None:
            self._records.move_to_end(key)
            return record(inputs)
        try:
            record, results = self._record(work, inputs)
        except Exception as error:  # whatever a function or a driver may raise: the function itself is run instead
            self._unrecordable.add(key)
            self.fall_back(f"{type(error).__name__}: {error}".split("\n")[0].rstrip(". "))
            return None
        while len(self._records) >= self.size:
            self._records.popitem(last=False)
        self._records[key] = record
        return results

    def _record(self, work: Work, inputs: tuple[Tensor, ...]) -> tuple[_Record, tuple[Tensor, ...]]:
        device = inputs[0].device
        with torch.inference_mode(False), torch.no_grad(), recording.on(), _without_autocast_cache(device):
            buffers = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x) for x in inputs)
            guard = Guard()

            def guarded() -> tuple[Tensor, ...]:
                with guard:
                    return work(*buffers)

            # tables that are made at the first call, on the host, and handles must exist before the guard and the recording
            expected = tuple(x.clone() for x in self.recorder.rehearse(lambda: work(*buffers), device))
            self.recorder.rehearse(guarded, device)
            replay, outputs = self.recorder.record(
                lambda: tuple(x.detach() for x in work(*buffers)), device, self if self.apart else None
            )
            record = _Record(buffers, outputs, replay, guard.external)
            results = record(inputs)
        if not _agree(results, expected):
            raise RuntimeError("its replay differs from the function itself, which may be random or depend on the host")
        return record, results


def _traced(inputs: Sequence[Tensor]) -> bool:
    """Whether something else is recording, transforming or tracing the function now, or its inputs are no plain tensors."""
    # in a backward pass: its thread must not wait for a recording, which waits for the thread
    if torch._C._current_graph_task_id() != -1:
        return True
    if transforms_active() or any(type(x) not in (Tensor, nn.Parameter) for x in inputs):
        return True
    if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs if x.is_floating_point()):
        return True
    return inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()


def settings(device: torch.device) -> Hashable:
    """The settings of torch that decide about the kernels of a recording."""
    return (
        torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
        _matmul_precision(),
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer interface, which the older one does not know
        return torch.backends.cuda.matmul.fp32_precision


@contextmanager
def _without_autocast_cache(device: torch.device) -> Iterator[None]:
    """Autocast as it is, without its cache of casted weights, which is emptied when the caller's block ends."""
    if not (torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)):
        yield
        return
    with torch.autocast(device.type, torch.get_autocast_dtype(device.type), cache_enabled=False):
        yield


def _agree(results: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether results are equal but for rounding; nan equals nan. Reads one number back."""
    agreement = [_close(a, b) for a, b in zip(results, expected, strict=True)]
    return bool(torch.stack(agreement).all())


def _close(a: Tensor, b: Tensor) -> Tensor:
    if not a.is_floating_point():
        return (a == b).all()
    wide = torch.promote_types(a.dtype, torch.float32)
    a, b = a.to(wide), b.to(wide)
    difference = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b).norm()
    return difference <= _TOLERANCE * torch.where(b.isfinite(), b, 0.0).norm() + _NOISE
