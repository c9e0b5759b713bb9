"""A subclass of Method that a user wrote works wherever the package's methods do."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from own_methods import Plain, Shifted, Twice
from planned import brightness, call_of
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build

from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.comparisons.method_comparison import GuideMethods
from dreamsim_guidance.comparisons.method_comparison_run import conditions
from dreamsim_guidance.generation.sampling import method_of
from dreamsim_guidance.guidance import GuidanceCallback, LossGuidance, Method, guide, plan
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.guidance.planning.demand import Demand, demand_of


@pytest.fixture(scope="module")
def sd() -> TinyPipeline:
    return build("sd-v")


USER_METHODS = [Shifted(strength=3.0, shift=-0.5), Plain(1.0), Twice(1.0)]
each_user_method = pytest.mark.parametrize("method", USER_METHODS, ids=lambda method: type(method).__name__)


@each_user_method
@pytest.mark.parametrize("schedule", [None, lambda progress: 0.5])
def test_it_guides_with_and_without_a_schedule(method: Method, schedule: Any) -> None:
    tiny = build("ddim")
    loss, unguided = tiny.loss(), tiny.call()
    with guide(tiny.pipe, loss, method, schedule=schedule):
        guided = tiny.call()
    assert float(loss(guided)) < float(loss(unguided))
    with guide(tiny.pipe, loss, method.with_strength(0)):
        assert torch.equal(tiny.call(), unguided)


@each_user_method
def test_it_can_be_planned(sd: TinyPipeline, method: Method) -> None:
    assert plan(sd.pipe, brightness, method, progress=False, **call_of(sd)).asked.slowdown > 1
    assert demand_of(method, 0.5) == Demand(1, 0)


def test_it_guides_through_a_callback_unless_it_repeats_steps() -> None:
    tiny = build("sd3")
    loss, unguided = tiny.loss(), tiny.call()
    size = (unguided.shape[-2], unguided.shape[-1])
    guided = tiny.call(callback_on_step_end=GuidanceCallback(tiny.pipe, loss, Shifted(10.0), size=size))
    assert float(loss(guided)) < float(loss(unguided))
    with pytest.raises(ValueError, match="comes after the denoiser"):  # `Twice` repeats steps early in the run
        GuidanceCallback(tiny.pipe, loss, Twice(1.0))


def test_it_guides_through_a_guider_if_it_declares_through_guider() -> None:
    pytest.importorskip("diffusers.guiders")
    tiny = build("modular-sd3")
    loss, unguided = tiny.loss(), tiny.call(steps=3)
    with pytest.raises(ValueError, match=r"only move the clean estimate.*MPGD, DPS, LGD, UniversalGuidance, TFG, MMPS"):
        LossGuidance(tiny.pipe, loss, Plain(1.0))
    tiny.pipe.update_components(guider=LossGuidance(tiny.pipe, loss, Shifted(10.0)))
    assert float(loss(tiny.call(steps=3))) < float(loss(unguided))


def test_it_is_chosen_by_its_full_name_and_options_may_be_negative() -> None:
    method = method_of("own_methods.Shifted", 0.1, ["shift=-2", "mode=auto"])
    assert method == Shifted(strength=0.1, shift=-2, mode="auto")
    assert GuidedSheet(method="own_methods.Shifted").method == "own_methods.Shifted"
    rows = conditions(GuideMethods(methods=("own_methods.Shifted:0.1:shift=-2",)))
    assert rows[1][1] == Shifted(strength=0.1, shift=-2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.Method", "cannot be imported: .*nowhere.*; its package must be installed or on PYTHONPATH"),
        ("own_methods.Missing", "cannot be imported"),
        ("own_methods.field", "or a subclass of Method"),
        ("mpdg", "unknown"),
    ],
)
def test_a_name_that_is_no_method_is_refused(name: str, message: str) -> None:
    for resolve in (method_class, method_of):
        with pytest.raises(ValueError, match=message):
            resolve(name)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_a_strength_is_checked_for_every_method(strength: float) -> None:
    for kind in (Shifted, *map(method_class, METHODS)):
        with pytest.raises(ValueError, match="strength must be a finite number >= 0"):
            kind(strength=strength)


def test_every_number_of_the_packages_methods_is_checked(unchecked: None) -> None:
    for kind in map(method_class, METHODS):
        for name, parameter in inspect.signature(kind).parameters.items():
            if not isinstance(parameter.default, int | float):
                continue
            for wrong in (-1, float("nan")):
                with pytest.raises(ValueError, match=f"{name} must be a"):
                    kind(**{name: wrong})
            with pytest.raises(TypeError, match=f"{name} must be a number"):
                kind(**{name: "5"})
