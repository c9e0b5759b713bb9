"""After a guide the pipeline is as it was before, whether the run succeeded, failed, was interrupted or was stopped."""

from __future__ import annotations

import pytest
import torch
from pipeline_state import state_of
from tiny_pipelines import FAMILIES, build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, MPGD, TFG, Method, differentiable, guide

METHODS = (MPGD(), TFG(recurrence=2, iterations=1))
TYPICAL = ("ddim", "sd", "sd-img2img", "flux-dev", "lcm", "modular-sdxl")


class Failing:
    """A loss that raises at its second call."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise self.error
        return images.square().flatten(1).mean(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_guided_run_leaves_the_same_state_as_an_unguided_one(family: str) -> None:
    tiny = build(family)
    loss, unguided = tiny.loss(steps=2), tiny.call(steps=2)
    before = state_of(tiny.pipe)
    with guide(tiny.pipe, loss, TFG(recurrence=2, iterations=1), checkpointing=True):
        tiny.call(steps=2)
    after = state_of(tiny.pipe, of_scheduler=False)
    assert {name: before[name] for name in after} == after
    assert torch.equal(tiny.call(steps=2), unguided)
    assert state_of(tiny.pipe) == before


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["exception", "interrupt"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("family", TYPICAL)
def test_an_error_in_the_loss_leaves_no_change(family: str, method: Method, error: BaseException) -> None:
    tiny = build(family)
    unguided = tiny.call(steps=3)
    before = state_of(tiny.pipe, of_scheduler=False)
    schedule = tiny.pipe.scheduler.timesteps.tolist()
    with pytest.raises(type(error)), guide(tiny.pipe, Failing(error), method, checkpointing=True):
        tiny.call(steps=3)
    assert state_of(tiny.pipe, of_scheduler=False) == before
    assert tiny.pipe.scheduler.timesteps.tolist() == schedule
    assert torch.equal(tiny.call(steps=3), unguided)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_the_gradient_mode_of_the_caller_is_not_changed(method: Method, enabled: bool) -> None:
    tiny = build("sd-v")
    loss = tiny.loss()
    with torch.set_grad_enabled(enabled):
        with guide(tiny.pipe, loss, method):
            tiny.call()
            assert torch.is_grad_enabled() == enabled
        assert torch.is_grad_enabled() == enabled
        with pytest.raises(ValueError, match="broken"), guide(tiny.pipe, Failing(ValueError("broken")), method):
            tiny.call()
        assert torch.is_grad_enabled() == enabled


def test_a_stopped_run_leaves_no_change() -> None:
    """Pipelines are stopped by a callback that sets their `_interrupt`."""
    tiny = build("sd")
    unguided, loss = tiny.call(), tiny.loss()
    before = state_of(tiny.pipe, of_scheduler=False)

    def stop(pipe: object, step: int, timestep: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tiny.pipe._interrupt = step == 1
        return tensors

    with guide(tiny.pipe, loss, DPS()):
        stopped = tiny.call(callback_on_step_end=stop)
        assert not torch.equal(stopped, unguided)
    assert state_of(tiny.pipe, of_scheduler=False) == before
    assert torch.equal(tiny.call(), unguided)


def test_a_step_that_other_code_has_replaced_is_called_and_restored() -> None:
    """The replacement is an attribute of the scheduler instance."""
    tiny = build("sd-v")
    calls = []
    step = tiny.pipe.scheduler.step

    def counted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return step(*args, **kwargs)

    tiny.pipe.scheduler.step = counted
    with guide(tiny.pipe, tiny.loss()):
        calls.clear()
        tiny.call(steps=4)
    assert len(calls) == 4
    assert tiny.pipe.scheduler.step is counted


def test_guide_can_be_entered_again() -> None:
    tiny = build("sd-v")
    guided = guide(tiny.pipe, tiny.loss())
    with guided:
        first = tiny.call()
    with guided as log:
        assert torch.equal(tiny.call(), first)
        assert torch.equal(tiny.call(), first)
    assert len(log.entries) == 4  # the log holds the last call only


@pytest.mark.parametrize("family", ["sd", "flux-dev"])
def test_differentiable_leaves_no_change(family: str) -> None:
    tiny = build(family)
    unguided = tiny.call()
    before = state_of(tiny.pipe, of_scheduler=False)
    with differentiable(tiny.pipe):
        tiny.call()
    assert state_of(tiny.pipe, of_scheduler=False) == before
    with pytest.raises(KeyboardInterrupt), differentiable(tiny.pipe):
        tiny.call()
        raise KeyboardInterrupt
    assert state_of(tiny.pipe, of_scheduler=False) == before
    assert torch.equal(tiny.call(), unguided)
