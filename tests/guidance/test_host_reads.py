"""A guided step reads nothing back to the host: on a GPU, each such read waits for everything that was launched before it.

On the CPU every read is free, so they are counted: those that guidance and pipelines make themselves, between the first step,
at which tables are read, and the last. Checks of values in the metric are made on the CPU only and do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

import dreamsim_guidance
from dreamsim_guidance import DreamSim
from dreamsim_guidance.guidance import DPS, DSG, LGD, MMPS, MPGD, TFG, FlowChef, FreeDoM, UniversalGuidance, guide
from dreamsim_guidance.guidance.method import Method
from dreamsim_guidance.pipelines import host_numbers
from dreamsim_guidance.pipelines.host_numbers import HostCopy, number
from dreamsim_guidance.pipelines.interception import Interception

ROOMS = tuple(str(Path(dreamsim_guidance.__file__).parent / room) for room in ("guidance", "pipelines"))
READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")
COPIES = ("tensor", "as_tensor")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places in guidance and pipelines that read a value, or copy one to the device, in the steps in between."""
    places: list[str] = []
    now = {"step": 0, "inside": False}

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            frame: Any = sys._getframe(1)
            while "/torch/" in frame.f_code.co_filename:
                frame = frame.f_back
            code = frame.f_code
            deferred = code.co_name == "tolist" and code.co_filename == host_numbers.__file__  # a copy that has arrived
            if now["inside"] and code.co_filename.startswith(ROOMS) and not deferred:
                places.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}: {original.__name__}")
            return original(*args, **kwargs)

        return wrapped

    for name in READS:
        monkeypatch.setattr(Tensor, name, counting(getattr(Tensor, name)))
    for name in COPIES:
        monkeypatch.setattr(torch, name, counting(getattr(torch, name)))
    step = Interception._step

    def watched(self: Interception, *args: Any, **kwargs: Any) -> Any:
        now["inside"] = 0 < self._plan.index < len(self._plan) - 1
        try:
            return step(self, *args, **kwargs)
        finally:
            now["inside"] = False

    monkeypatch.setattr(Interception, "_step", watched)
    return places


METHODS: list[Method] = [
    MPGD(),
    DPS(),
    LGD(samples=2),
    FreeDoM(recurrence_window=(0.0, 1.0)),
    UniversalGuidance(),
    TFG(recurrence=2),
    FlowChef(),
    MMPS(solves=1),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_no_method_waits_for_the_device(method: Method, reads: list[str]) -> None:
    tiny = build("sd")
    with guide(tiny.pipe, DreamSim("pocket").target(tiny.target()), method, until=0.0) as log:
        tiny.call()
    assert reads == [] and len(log.entries) >= 4


@pytest.mark.parametrize("family", ["ddim", "sdxl", "flux-dev", "sd3", "qwen-image", "modular-sd3"])
def test_no_family_makes_guidance_wait(family: str, reads: list[str]) -> None:
    tiny = build(family)
    with guide(tiny.pipe, tiny.loss(), MPGD()) as log:
        tiny.call()
    assert reads == [] and len(log.entries) >= 4


def test_reads_are_counted_where_they_are_needed(reads: list[str]) -> None:
    tiny = build("ddpm")
    with guide(tiny.pipe, tiny.loss(), DSG()):
        tiny.call(steps=3)
    assert len(reads) == 3 and all("separate" in place or "__call__" in place for place in reads)


def test_a_table_is_read_once_and_again_after_a_change() -> None:
    table = torch.tensor([9, 7, 5])
    assert [number(t) for t in table] == [9.0, 7.0, 5.0] and number(table[1:][1]) == 5.0
    table += 1
    assert [number(t) for t in table] == [10.0, 8.0, 6.0]
    assert number(torch.tensor(0.25)) == 0.25 and number(3) == 3.0
    for dtype in (torch.float64, torch.float16, torch.int32):
        assert number(torch.tensor([1, 2, 3], dtype=dtype)[2]) == 3.0
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        number(table)
    for i in range(200):  # tables come and go at the same addresses
        assert number(torch.full((3,), float(i))[1]) == i


def test_several_vectors_travel_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[Tensor] = []
    start = HostCopy.__init__
    monkeypatch.setattr(HostCopy, "__init__", lambda self, tensor: copied.append(tensor) or start(self, tensor))
    exact, half = torch.tensor([0.1, 0.2], dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float16)
    flags = torch.tensor([True, False, True])
    copies = HostCopy.of_several(exact, half, flags)
    assert len(copied) == 1
    assert copies[0].tolist() == exact.tolist() and copies[1].tolist() == half.tolist()
    total = copies[2].sum().tolist()
    assert total == 2 and type(total) is int and copies[2].tolist() == [1.0, 0.0, 1.0]


def test_a_guided_step_copies_its_numbers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("ddim")
    copied: list[Tensor] = []
    start = HostCopy.__init__
    with guide(tiny.pipe, tiny.loss(), MPGD(), judges={}) as log:
        monkeypatch.setattr(HostCopy, "__init__", lambda self, tensor: copied.append(tensor) or start(self, tensor))
        tiny.call()
    assert len(copied) == len(log.entries)


def test_an_entry_reads_its_numbers_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("ddim")
    asked: list[int] = []
    read = HostCopy.tolist

    def tolist(self: HostCopy) -> Any:
        asked.append(1)
        return read(self)

    tiny.pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(HostCopy, "tolist", tolist)
    monkeypatch.setattr(HostCopy, "arrived", False)
    with guide(tiny.pipe, tiny.loss(), MPGD()) as log:
        tiny.call()
        before = len(asked)
    entry = log.entries[1]
    assert all(type(x) is float for x in (*entry.distance, *entry.move)) and len(asked) == before + 2
    assert type(entry.skipped) is int and entry.distance == entry.distance and len(asked) == before + 2  # read once
    assert log.to_dict()["steps"][1]["distance"] == entry.distance
