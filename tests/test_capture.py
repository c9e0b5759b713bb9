"""Functions of tensors are recorded if nothing in them depends on the host, and run as they are otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tape_recorder import TapeRecorder
from torch import Tensor, nn

from dreamsim_guidance.capture import CudaRecorder, Graphs, Recorder, Watch, values_of

X = torch.linspace(-1, 1, 6).view(2, 3)


def nothing() -> Watch:
    return Watch([])


@pytest.fixture
def recorder() -> TapeRecorder:
    return TapeRecorder()


def test_both_recorders_have_the_interface() -> None:
    assert isinstance(CudaRecorder(), Recorder) and isinstance(TapeRecorder(), Recorder)
    assert not CudaRecorder().accepts(torch.device("cpu")) and CudaRecorder().accepts(torch.device("cuda", 1))


def test_a_function_of_several_tensors_is_recorded_once_for_each_kind_of_input(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)

    def work(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x.sin() * y, x + y

    for i in range(3):
        x, y = X * i, X[0] + i
        assert all(map(torch.equal, graphs(work, (x, y), nothing), work(x, y)))
    assert recorder.recorded == 1 and len(graphs) == 1
    for inputs in ((X[:1], X[0]), (X.double(), X[0].double()), (X, X[:1])):
        assert all(map(torch.equal, graphs(work, inputs, nothing), work(*inputs)))
    assert recorder.recorded == 4


def test_numbers_are_constants_of_a_recording_unless_they_are_in_its_key(recorder: TapeRecorder) -> None:
    graphs, factor = Graphs(recorder), 2.0
    (first,) = graphs(lambda x: (x * factor,), (X,), nothing)
    factor = 3.0
    (again,) = graphs(lambda x: (x * factor,), (X,), nothing)
    (other,) = graphs(lambda x: (x * factor,), (X,), nothing, key=factor)
    assert torch.equal(first, 2 * X) and torch.equal(again, 2 * X) and torch.equal(other, 3 * X)


DEPENDING: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.max()),
    "bool": lambda x: x if bool((x > 0).any()) else -x,
    "mask": lambda x: x[x > 0].sum() + x,
    "changed where a mask says": lambda x: x.clone().index_put((x > 0,), x.new_ones(())),
    "nonzero": lambda x: x + len(x.nonzero()),
    "unique": lambda x: x + len(x.unique()),
    "equal": lambda x: x if torch.equal(x, x) else -x,
    "masked select": lambda x: x + x.masked_select(x > 0).sum(),
    "repeats": lambda x: x + len(torch.arange(2).repeat_interleave(torch.tensor([1, 2]))),
}


@pytest.mark.parametrize("name", DEPENDING)
def test_what_reads_values_back_is_never_recorded(
    name: str, recorder: TapeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    graphs, function = Graphs(recorder), DEPENDING[name]
    for x in (X, -2 * X):
        assert torch.equal(graphs(lambda x: (function(x),), (x,), nothing)[0], function(x))
    assert recorder.recorded == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "reads values back to the host" in caplog.text


def test_a_table_that_the_first_call_makes_on_the_host_is_kept_by_the_recording(recorder: TapeRecorder) -> None:
    tables: dict[str, Tensor] = {}

    def work(x: Tensor) -> tuple[Tensor, ...]:
        if not tables:
            tables["scale"] = torch.full((3,), float(x.shape[0] + torch.ones(()).item()))
        return (x * tables["scale"],)

    graphs = Graphs(recorder)
    graphs(work, (X,), nothing)
    tables.clear()  # as a cache that is full
    assert torch.equal(graphs(work, (2 * X,), nothing)[0], 6 * X) and recorder.recorded == 1


def test_numbers_as_indices_are_recorded(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)
    places = torch.tensor([1, 0])
    for x in (X, 2 * X):
        assert torch.equal(graphs(lambda x: (x[places],), (x,), nothing)[0], x[places])
    assert recorder.recorded == 1


@pytest.mark.parametrize("noise", [torch.rand_like, torch.randn_like])
def test_what_is_random_is_found_by_the_comparison(
    noise: Callable[[Tensor], Tensor], recorder: TapeRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = Graphs(recorder)
    for _ in range(2):
        graphs(lambda x: (x + noise(x),), (X,), nothing)
    assert len(graphs) == 0 and len(caplog.records) == 1 and "may be random" in caplog.text


def test_nan_and_infinity_are_results_like_others(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)
    for _ in range(2):
        (result,) = graphs(lambda x: (torch.stack([x.log(), x / 0, x * 0 / 0]),), (X,), nothing)
        torch.testing.assert_close(result, torch.stack([X.log(), X / 0, X * 0 / 0]), equal_nan=True)
    assert recorder.recorded == 1


def test_an_error_of_the_function_reaches_the_caller(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            graphs(lambda x: (x * (1 / 0),), (X,), nothing)
    assert torch.equal(graphs(lambda x: (x * 2,), (X[:1],), nothing)[0], 2 * X[:1])


def test_the_grad_mode_outside_changes_nothing(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)

    def slope(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(leaf.pow(3).sum(), leaf)

    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with mode():
            (result,) = graphs(slope, (X.clone().requires_grad_(),), nothing)
        torch.testing.assert_close(result, 3 * X.square())
        assert not result.requires_grad
    assert recorder.recorded == 1


def test_settings_of_torch_have_recordings_of_their_own(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
            graphs(lambda x: (x @ x.T,), (X,), nothing)
    finally:
        torch.set_float32_matmul_precision(before)
    assert recorder.recorded == 2


def test_a_watch_names_what_it_cannot_record_and_notices_every_change() -> None:
    tower = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).requires_grad_(False).eval()
    table: list[Tensor | None] = [X, None]
    watch = Watch([tower], lambda: table)
    assert not watch.changed() and watch.obstacle() is None
    tower[0].weight.mul_(2)
    tower.note = "an attribute"
    assert not watch.changed() and watch.obstacle() is None
    changes: list[Callable[[], object]] = [
        lambda: table.__setitem__(0, X.clone()),
        lambda: table.__setitem__(1, X),
        lambda: setattr(tower[1], "running_mean", torch.ones(3)),
        lambda: setattr(tower[0], "bias", None),
        lambda: tower.append(nn.ReLU()),
        lambda: tower[1].train(),
        lambda: tower.double(),
    ]
    for change in changes:
        watch = Watch([tower], lambda: table)
        change()
        assert watch.changed()
    watch = Watch([tower])
    tower[0].weight.requires_grad_()
    assert "parameters require a gradient" in str(watch.obstacle())
    with torch.no_grad():
        assert watch.obstacle() is None


def test_values_have_the_gradient_of_their_own_image(recorder: TapeRecorder) -> None:
    graphs = Graphs(recorder)

    def function(x: Tensor) -> Tensor:
        return x.square().sum(1)

    for _ in range(2):
        leaf = X.clone().requires_grad_()
        values = values_of(graphs, function, leaf, nothing)
        (values * torch.tensor([1.0, 10.0])).sum().backward()
        torch.testing.assert_close(leaf.grad, 2 * X * torch.tensor([[1.0], [10.0]]))
    assert recorder.recorded == 1


class Card:
    """Stands for `torch.cuda`, and writes down what is asked of streams, events and graphs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.current: Any = self.stream("main")
        self.pools = 0
        self.broken = False
        for name in ("current_stream", "stream_context", "device", "graph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name.replace("_context", ""), getattr(self, f"_{name}"))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.stream("aside"))
        monkeypatch.setattr(torch.cuda, "Event", lambda: self._Event(self))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self._Graph)
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: self.calls.append("clear workspaces"))

    def stream(self, name: str) -> Any:
        return self._Stream(self, name)

    class _Stream:
        device_index = 0

        def __init__(self, card: Card, name: str) -> None:
            self.card, self.name = card, name

        def wait_stream(self, other: Any) -> None:
            self.card.calls.append(f"{self.name} waits for {other.name}")

        def wait_event(self, event: Any) -> None:
            self.card.calls.append(f"{self.name} waits for the last replay on {event.where}")

    class _Event:
        def __init__(self, card: Card) -> None:
            self.where = ""

        def record(self, stream: Any) -> None:
            self.where = stream.name

    class _Graph:
        def replay(self) -> None:
            pass

        def pool(self) -> None:
            raise RuntimeError("it was not recorded in order")

    def _current_stream(self, device: Any = None) -> Any:
        return self.current

    @contextmanager
    def _stream_context(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _device(self, device: Any) -> Iterator[None]:
        yield

    def _graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    @contextmanager
    def _graph(self, graph: Any, pool: int, stream: Any, capture_error_mode: str) -> Iterator[None]:
        self.calls.append(f"record on {stream.name} in pool {pool}")
        self.current = stream
        yield
        if self.broken:  # the stream is not given back then
            raise RuntimeError("operation failed due to a previous error during capture")


CARD = torch.device("cuda", 0)


def test_streams_wait_for_each_other_around_replays_and_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    card, recorder = Card(monkeypatch), CudaRecorder()
    with recorder.turn(CARD):
        replay, _ = recorder.record(lambda: (X,), CARD)
    assert card.calls == [
        "aside waits for main",
        "clear workspaces",
        "record on aside in pool 1",
        "clear workspaces",
        "main waits for aside",
    ]
    card.calls.clear()
    for name in ("other", "main"):
        card.current = card.stream(name)
        with recorder.turn(CARD):
            replay()
    assert card.calls == ["other waits for the last replay on main", "main waits for the last replay on other"]


def test_graphs_of_one_owner_share_a_pool_as_long_as_one_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    card, recorder = Card(monkeypatch), CudaRecorder()
    records = [recorder.record(lambda: (X,), CARD) for _ in range(2)]
    apart = Graphs(recorder)
    records.append(recorder.record(lambda: (X,), CARD, apart))
    records.append(recorder.record(lambda: (X,), CARD))
    assert [call[-1] for call in card.calls if "pool" in call] == ["1", "1", "2", "1"]
    records.clear()
    recorder.record(lambda: (X,), CARD)
    assert card.pools == 3


def test_a_broken_recording_gives_the_stream_back_and_leaves_its_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    card, recorder = Card(monkeypatch), CudaRecorder()
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda device, pool, name=name: card.calls.append(name), raising=False)
    records = recorder.record(lambda: (X,), CARD)
    card.broken = True
    with pytest.raises(RuntimeError, match="previous error during capture"), recorder.turn(CARD):
        recorder.record(lambda: (X,), CARD)
    assert card.current.name == "main" and records
    assert card.calls[-4:-2] == ["_cuda_endAllocateToPool", "_cuda_releasePool"]
    card.broken = False
    recorder.record(lambda: (X,), CARD)
    assert card.pools == 2
