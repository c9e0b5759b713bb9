"""Training in a process with an Accelerator of the caller, whose state accelerate shares between all objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from tiny_tuning import adapter, tuning
from torch import Tensor, nn

from dreamsim_guidance.training.optimiser import Optimiser

HOLDERS: tuple[Any, ...] = (AcceleratorState, GradientState, PartialState)


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate as in a process that has not used it yet."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    for holder in HOLDERS:
        monkeypatch.setattr(holder, "_shared_state", {})


@pytest.fixture
def train(data: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(name: str = "run", **changes: Any) -> Path:
        tuning(data, steps=2, **changes).run(tmp_path / name)
        return tmp_path / name / "checkpoints" / "step-00000002.pt"

    return run


def dtype_inside(accelerator: Accelerator) -> torch.dtype:
    """The dtype in which a model computes that this Accelerator has prepared."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.dtype = (x @ x).dtype
            return x

    model = accelerator.prepare(Product())
    model(torch.ones(2, 2))
    return model.dtype


def test_an_accelerator_made_before_keeps_all_its_settings(train: Callable[..., Path]) -> None:
    theirs = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    theirs.prepare(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0))
    theirs.gradient_state._set_sync_gradients(False)  # in the middle of an accumulation
    before = (dict(vars(theirs.state)), dict(vars(theirs.gradient_state)), dict(vars(PartialState())))
    checkpoint = train(precision="no")
    after = (dict(vars(theirs.state)), dict(vars(theirs.gradient_state)), dict(vars(PartialState())))
    assert before == after and vars(theirs.state) is AcceleratorState._shared_state
    assert theirs.mixed_precision == "bf16" and theirs.device.type == "cpu" and theirs.gradient_accumulation_steps == 4
    assert not theirs.sync_gradients
    assert dtype_inside(theirs) == torch.bfloat16
    states = torch.load(checkpoint)["optimiser"]["state"]
    assert all(float(state["step"]) == 2 for state in states.values())  # the caller's accumulation skipped no step
    with pytest.raises(ValueError, match="the loss became"):
        train("failed", optimiser=Optimiser(learning_rate=1e30), precision="no")
    assert theirs.mixed_precision == Accelerator().mixed_precision == "bf16"


def test_an_accelerator_made_afterwards_may_have_any_settings(
    train: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    train(precision="no")
    adapter(data, lora=None, head=16, steps=2).run(tmp_path / "head")  # computes features before it trains
    assert not any(holder._shared_state for holder in HOLDERS)
    theirs = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    assert theirs.mixed_precision == "bf16" and theirs.gradient_accumulation_steps == 2
    assert dtype_inside(theirs) == torch.bfloat16


def test_training_takes_the_precision_of_an_accelerator_unless_it_is_given_one(train: Callable[..., Path]) -> None:
    def weights(name: str, **changes: Any) -> Tensor:
        trained = torch.load(train(name, **changes))["weights"]
        return torch.cat([value.flatten() for value in trained.values()])

    alone, alone_in_full = weights("alone", precision="bf16"), weights("alone in full", precision="no")
    theirs = Accelerator(cpu=True, mixed_precision="bf16")
    as_theirs, in_full = weights("as theirs"), weights("in full", precision="no")
    assert torch.equal(alone, as_theirs)
    assert torch.equal(alone_in_full, in_full)
    assert not torch.equal(as_theirs, in_full)
    assert theirs.mixed_precision == "bf16"
