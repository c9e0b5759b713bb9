"""Functions of tensors, run as CUDA graphs: recorded once for each kind of input, replayed afterwards in one launch.

    graphs = Graphs()
    (y,) = graphs(lambda x: (x.sin(),), (x,), Watch([module]))     # any function of tensors that returns tensors
    values = values_of(graphs, function, images, Watch([module]))  # one value per image, differentiable in the images

On a GPU, a step of a perceptual loss on a few images launches hundreds of kernels, and launching them takes longer than running
them. A graph launches all of them at once. What a graph needs is provided here:

- Inputs are copied into buffers of the graph, and results are copied out, so that nothing aliases the caller's tensors.
- A `Watch` notices weights that were replaced or moved, hooks, and weights that are being trained. Replaced weights lead to a
  new recording; with hooks or training the function is run as it is. All memory that a graph reads is kept alive.
- Before a function is recorded it is run twice, the second time under a guard that finds whatever would read values back to the
  host. The first replay is compared with the function's own result. If either fails, or the recording, the function is run as
  it is from then on, and a line at warning level says why, once for each reason.
- Replays on one device follow one another, whatever thread or stream asks for them, so that all graphs share one memory pool.

A graph keeps the memory of its intermediate results, about as much as one ordinary call needs at its peak, until `release`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as module_globals
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamsim_guidance.tracing import recording, transforms_active, values_unknown

__all__ = ["CudaRecorder", "Graphs", "Recorder", "Replay", "Watch", "values_of"]

log = logging.getLogger(__name__)

Work = Callable[..., tuple[Tensor, ...]]
Replay = Callable[[], object]
"""Computes the outputs of a recording anew, into the same tensors, from what its inputs hold now."""

_TOLERANCE = 2e-2
"""Relative difference (of Euclidean norms) between a replay and the function itself that counts as rounding: the order of sums
may differ, in half precision too. A recording that misses an input is wrong by much more."""

_NOISE = 1e-6
"""Norm of a difference that is rounding whatever the result: gradients at a minimum are nothing but rounding."""


@runtime_checkable
class Recorder(Protocol):
    """What records and replays on one kind of device. `CudaRecorder` is the real one; tests use one for the CPU."""

    def accepts(self, device: torch.device) -> bool:
        """Whether functions of tensors on this device can be recorded."""

    def turn(self, device: torch.device) -> Any:
        """A context for one replay or recording at a time, ordered on the device after the previous one."""

    def record(self, work: Callable[[], tuple[Tensor, ...]], device: torch.device) -> tuple[Replay, tuple[Tensor, ...]]:
        """Record a call of `work`; return its replay and the tensors that hold the results. Raises what `work` raises."""

    def rehearse(self, work: Callable[[], tuple[Tensor, ...]], device: torch.device) -> tuple[Tensor, ...]:
        """Call `work` as it will be recorded, without recording it."""


class CudaRecorder:
    """Records with `torch.cuda.CUDAGraph`. One object serves the whole process: see `Graphs`.

    Graphs share one memory pool per device. This is safe because a replay begins on the device after the previous one has
    ended, also where it was launched on another stream, and results are copied out before the next.
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

    def record(self, work: Callable[[], tuple[Tensor, ...]], device: torch.device) -> tuple[Replay, tuple[Tensor, ...]]:
        place = self._of(device)
        graph = torch.cuda.CUDAGraph()
        with self._aside(device) as stream:
            if (
                place.pool is None or not place.graphs
            ):  # torch does not take up a pool again that no graph uses any more
                place.pool = torch.cuda.graph_pool_handle()
            try:
                # "thread_local": other threads may allocate memory and synchronise meanwhile
                with torch.cuda.graph(graph, pool=place.pool, stream=stream, capture_error_mode="thread_local"):
                    outputs = work()
            except BaseException:
                _close_pool(stream.device_index, place.pool)
                place.pool = None  # what was allocated in it so far belongs to no graph
                raise
        place.graphs.add(graph)
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
        self.pool: Any = None
        self.graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()
        self.done: torch.cuda.Event | None = None
        """Recorded on the stream of the last replay, behind it."""


def _close_pool(device: int, pool: Any) -> None:
    """Let the allocator leave a pool whose recording was broken off: torch does so only where the recording ended in order."""
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"):  # the latter before torch 2.8
        with suppress(Exception):
            getattr(torch._C, name)(device, pool)
            return


_CUDA = CudaRecorder()


def _cuda_recorder() -> CudaRecorder:
    return _CUDA


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


@dataclass
class _Record:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    replay: Replay
    kept: Sequence[Any]
    """Memory that the graph reads: weights, references, tables."""

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Replay with these inputs. To be called in a recorder's turn."""
        for buffer, given in zip(self.inputs, inputs, strict=True):
            buffer.copy_(given)
            if buffer.is_cuda:  # the allocator must not hand it on while another stream still works with it
                buffer.record_stream(torch.cuda.current_stream(buffer.device))
        self.replay()
        return tuple(output.clone() for output in self.outputs)


class Graphs:
    """Recordings of one function for several kinds of input; the least recently used is dropped when there are too many.

    recorder: by default the process's `CudaRecorder`. size: largest number of recordings, at least 1.

    It may be used from several threads and streams. A copy or a pickle of it starts without recordings.
    """

    def __init__(self, recorder: Recorder | None = None, size: int = 8) -> None:
        self.recorder: Recorder = _CUDA if recorder is None else recorder
        self.size = size
        self._records: OrderedDict[Hashable, _Record] = OrderedDict()
        self._unrecordable: set[Hashable] = set()
        self._logged: set[str] = set()
        self._watch: Watch | None = None

    def __len__(self) -> int:
        """Number of recordings at the moment."""
        return len(self._records)

    def __reduce__(self) -> Any:  # also for copy.deepcopy
        return Graphs, (self.recorder, self.size)

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
        key = (key, tuple((x.shape, x.dtype, x.device) for x in inputs), _settings(device))
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
        if self._watch is not None and self._watch.changed():
            self._forget()
        if self._watch is None:
            self._watch = watch()
        obstacle = self._watch.obstacle()
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
            guard = _Guard()

            def guarded() -> tuple[Tensor, ...]:
                with guard:
                    return work(*buffers)

            # tables that are made at the first call, on the host, and handles must exist before the guard and the recording
            expected = tuple(x.clone() for x in self.recorder.rehearse(lambda: work(*buffers), device))
            self.recorder.rehearse(guarded, device)
            replay, outputs = self.recorder.record(lambda: tuple(x.detach() for x in work(*buffers)), device)
            record = _Record(buffers, outputs, replay, guard.external)
            results = record(inputs)
        if not _agree(results, expected):
            raise RuntimeError("its replay differs from the function itself, which may be random or depend on the host")
        return record, results


def values_of(
    graphs: Graphs,
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    watch: Callable[[], Watch],
    key: Hashable = (),
) -> Tensor:
    """`function(images)`, from a recording where possible, differentiable in the images.

    function: from images `(b, ...)` to one value for each, `(b,)`, which depends on its own image only.
    images: on a device that the recorder accepts. If they require a gradient, the values and their gradient are computed in one
        replay; a backward pass multiplies it. A gradient that is itself differentiated (`create_graph=True`) is computed by
        the function itself. `torch.func`, forward-mode differentiation and `torch.compile` run the function itself too.
    watch, key: as for `Graphs`.
    """
    differentiable = torch.is_grad_enabled() and images.requires_grad
    work = _gradient_of(function) if differentiable else _forward_of(function)
    results = graphs.replayed(work, (images,), watch, (key, differentiable))
    if results is None:
        return function(images)
    return cast(Tensor, _Replayed.apply(images, *results, function)) if differentiable else results[0]


def _forward_of(function: Callable[[Tensor], Tensor]) -> Work:
    def work(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(images),)

    return work


def _gradient_of(function: Callable[[Tensor], Tensor]) -> Work:
    def work(images: Tensor) -> tuple[Tensor, ...]:
        # float16 cannot hold the gradient of a value whose weight is not known yet
        leaf = images.detach().to(torch.promote_types(images.dtype, torch.float32)).requires_grad_()
        with torch.enable_grad():
            values = function(leaf)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient

    return work


class _Replayed(torch.autograd.Function):
    """Values whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, values: Tensor, gradient: Tensor, function: Any) -> Tensor:
        ctx.save_for_backward(images)  # unpacked for second derivatives only
        ctx.gradient, ctx.function, ctx.dtype = gradient, function, images.dtype
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = gradients
        if torch.is_grad_enabled():
            (images,) = ctx.saved_tensors
            values = ctx.function(images)
            (slope,) = torch.autograd.grad(values, images, weights, create_graph=True)
            return slope, None, None, None
        weights = weights.view(-1, *[1] * (ctx.gradient.ndim - 1))
        return (weights * ctx.gradient).to(ctx.dtype), None, None, None


class _Guard(TorchDispatchMode):
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
        if str(func).startswith(("aten._to_copy", "aten.copy_")) and len({x.device.type for x in inputs + outputs}) > 1:
            raise RuntimeError(f"it copies values between host and device ({func})")
        for x in inputs:
            storage = x.untyped_storage()
            if storage._cdata not in self._made:
                self._external.setdefault(storage._cdata, storage)
        for x in outputs:
            storage = x.untyped_storage()
            if storage._cdata not in self._external:
                # a weak reference: the address cannot be used again as long as it exists
                self._made.setdefault(storage._cdata, torch.multiprocessing.reductions.StorageWeakRef(storage))
        return results


def _reads_values(func: Any, inputs: Sequence[Tensor]) -> bool:
    tags = getattr(func, "tags", ())
    if torch.Tag.data_dependent_output in tags:
        return True
    if "index" in str(func):  # by numbers, or by a mask, whose true elements are counted on the host
        return any(x.dtype in (torch.bool, torch.uint8) for x in inputs[1:])
    return torch.Tag.dynamic_output_shape in tags


def _traced(inputs: Sequence[Tensor]) -> bool:
    """Whether something else is recording, transforming or tracing the function now, or its inputs are no plain tensors."""
    if transforms_active() or any(type(x) not in (Tensor, nn.Parameter) for x in inputs):
        return True
    if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs if x.is_floating_point()):
        return True
    return inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()


def _settings(device: torch.device) -> Hashable:
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
