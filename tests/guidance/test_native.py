"""Guidance through diffusers' extension points (guiders and callbacks) agrees with guidance that patches the scheduler."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, DSG, MPGD, FreeDoM, GuidanceCallback, LossGuidance, guide

pytest.importorskip("diffusers.guiders")


def squared(target: Tensor):
    return lambda images: (images - target).square().flatten(1).mean(1)


@pytest.mark.parametrize("family", ["modular-sd3", "modular-sdxl"])
def test_a_guider_through_the_denoiser_agrees_with_guide(family: str) -> None:
    tiny = build(family)
    base = tiny.call(0, 3)
    loss, original_guider = squared(tiny.target()), tiny.pipe.guider
    with guide(tiny.pipe, loss, DPS(10.0)):
        expected = tiny.call(0, 3)
    guider = LossGuidance(tiny.pipe, loss, DPS(10.0))
    tiny.pipe.update_components(guider=guider)
    guided = tiny.call(0, 3)
    tiny.pipe.update_components(guider=original_guider)
    assert float((guided - expected).abs().max()) < 1e-5
    assert float(loss(guided)) < float(loss(base))
    assert [entry.guided for entry in guider.log.entries] == [True] * 3
    assert torch.equal(tiny.call(0, 3), base)


def test_a_guider_can_move_the_clean_estimate_without_a_gradient_through_the_denoiser() -> None:
    tiny = build("modular-sd3")
    base, loss = tiny.call(0, 3), squared(tiny.target())
    tiny.pipe.update_components(guider=LossGuidance(tiny.pipe, loss, MPGD(10.0)))
    guided = tiny.call(0, 3)
    assert float(loss(guided)) < float(loss(base))


def test_a_guider_of_strength_zero_changes_nothing() -> None:
    tiny = build("modular-sd3")
    base = tiny.call(0, 3)
    tiny.pipe.update_components(guider=LossGuidance(tiny.pipe, squared(tiny.target()), MPGD(0.0)))
    assert torch.equal(tiny.call(0, 3), base)


def test_a_guider_refuses_methods_that_change_the_state() -> None:
    tiny = build("modular-sd3")
    for method in (FreeDoM(), DSG()):
        with pytest.raises(ValueError, match="only move the clean estimate"):
            LossGuidance(tiny.pipe, squared(tiny.target()), method)


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux-dev"])
def test_a_callback_guides_deterministic_samplers(family: str) -> None:
    tiny = build(family)
    base, loss = tiny.call(0, 4), squared(tiny.target())
    callback = GuidanceCallback(tiny.pipe, loss, MPGD(10.0), size=(base.shape[-2], base.shape[-1]))
    guided = tiny.call(0, 4, callback_on_step_end=callback)
    assert float(loss(guided)) < float(loss(base))
    assert [entry.index for entry in callback.log.entries] == [1, 2, 3]


def test_a_callback_sees_the_same_clean_estimates_as_guide() -> None:
    tiny = build("sd3")
    size = (tiny.call(0, 2).shape[-2],) * 2
    indices: list[int] = []
    loss = squared(tiny.target())
    with guide(tiny.pipe, loss, MPGD(0.0)) as log:
        tiny.call(0, 4)
    callback = GuidanceCallback(
        tiny.pipe, loss, MPGD(0.0), size=size, callback=lambda entry, images: indices.append(entry.index)
    )
    tiny.call(0, 4, callback_on_step_end=callback)
    expected = [entry.distance[0] for entry in log.entries[1:]]
    assert [entry.distance[0] for entry in callback.log.entries] == pytest.approx(expected, rel=1e-4)
    assert len(indices) == 3


def test_a_callback_refuses_samplers_whose_states_do_not_determine_the_estimate() -> None:
    tiny = build("lcm")
    with pytest.raises(ValueError, match="states only"):
        GuidanceCallback(tiny.pipe, squared(tiny.target()))
    with pytest.raises(ValueError, match="comes after the denoiser"):
        GuidanceCallback(build("sd3").pipe, squared(tiny.target()), DPS())
