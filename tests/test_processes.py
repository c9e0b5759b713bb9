"""The rule for the default device: the accelerator if there is one, else the CPU."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamsim_guidance import processes
from dreamsim_guidance.processes import default_device


def pretend(monkeypatch: pytest.MonkeyPatch, *available: str) -> None:
    for name, backend in (("cuda", torch.cuda), ("mps", torch.backends.mps), ("xpu", torch.xpu)):
        monkeypatch.setattr(backend, "is_available", lambda name=name: name in available)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: bool(available))


@pytest.mark.parametrize(
    ("available", "expected"),
    [((), "cpu"), (("cuda",), "cuda"), (("mps",), "mps"), (("xpu",), "xpu"), (("xpu", "mps", "cuda"), "cuda")],
)
def test_the_default_is_the_accelerator_that_is_there(
    available: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, *available)
    assert default_device() == expected
    assert processes.process_device() == expected and processes.process_device("cpu") == "cpu"


def test_accelerators_other_than_cuda_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("hpu"))
    assert default_device() == "hpu"


def test_no_module_chooses_the_default_device_by_cuda_alone() -> None:
    root = Path(processes.__file__).parents[1]
    offenders: list[Any] = []
    for folder in ("dreamsim_guidance", "losses", "recipes", "training"):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.IfExp) and "cuda.is_available" in ast.unparse(node.test):
                    offenders += [(file.name, node.lineno)] if ast.unparse(node.orelse) == "'cpu'" else []
    assert offenders == []
