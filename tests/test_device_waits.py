"""The helper of the tests on a GPU that makes waiting an error, with a stand-in for torch's switch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from device_waits import waiting_is_an_error


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """The modes that are set one after another; the first is the one from before. Setting one warns, as torch does."""
    history: list[int | str] = [1]

    def set_mode(mode: int | str) -> None:
        history.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: history[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    return history


def test_waiting_is_an_error_inside_the_block_only(modes: list[int | str]) -> None:
    with waiting_is_an_error():
        assert modes[-1] == "error"
    assert modes == [1, "error", 1]


def test_the_mode_is_set_back_after_an_error(modes: list[int | str]) -> None:
    with pytest.raises(RuntimeError, match="synchronizing"), waiting_is_an_error():
        raise RuntimeError("called a synchronizing CUDA operation")
    assert modes[-1] == 1


def test_the_mode_is_set_back_where_switching_it_fails(modes: list[int | str], monkeypatch: pytest.MonkeyPatch) -> None:
    switch: Callable[[int | str], None] = torch.cuda.set_sync_debug_mode

    def fail_afterwards(mode: int | str) -> None:
        switch(mode)
        if mode == "error":
            raise RuntimeError("no such mode")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", fail_afterwards)
    with suppress(RuntimeError), waiting_is_an_error():
        pytest.fail("the block was entered")
    assert modes[-1] == 1


def test_without_a_device_nothing_is_set(modes: list[int | str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with waiting_is_an_error():
        pass
    assert modes == [1]
