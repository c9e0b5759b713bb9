"""Huge, infinite and NaN values in clean estimates, images, losses and gradients are bounded, or skipped and reported."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import DPS, DSG, LGD, MPGD, TFG, FlowChef, FreeDoM, Method, UniversalGuidance, guide
from dreamsim_guidance.guidance.methods import METHODS, method_class
from dreamsim_guidance.guidance.step import length, rms
from dreamsim_guidance.pipelines.decoder import Decoder, Geometry
from dreamsim_guidance.pipelines.decoder import bounded as _bounded

LARGE = [1e4, 1e15, 1e30, 3e38, math.inf]
ALL = [method_class(name)() for name in METHODS]
each_method = pytest.mark.parametrize("method", ALL, ids=lambda method: type(method).__name__)


def brightness(images: Tensor) -> Tensor:
    return (images - 0.2).square().flatten(1).mean(1)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", LARGE)
def test_pixels_far_outside_the_range_are_bounded_with_a_finite_gradient(size: float, sign: int) -> None:
    images = torch.full((1, 3, 2, 2), sign * size, requires_grad=True)
    bounded = _bounded(images)
    torch.testing.assert_close(bounded, torch.full_like(bounded, 1.25 if sign > 0 else -0.25), atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(bounded.sum(), images)
    assert gradient.isfinite().all() and (gradient >= 0).all()


def test_bounding_leaves_pixels_in_the_range_and_nan_as_they_are() -> None:
    images = torch.tensor([0.0, 0.3, 1.0, math.nan])
    assert torch.equal(_bounded(images)[:3], images[:3]) and bool(_bounded(images)[3].isnan())


@pytest.mark.parametrize("size", [*LARGE, -math.inf])
def test_pixels_that_a_sampler_clips_are_clipped_whatever_their_size(size: float) -> None:
    tiny = build("ddim")
    assert tiny.pipe.scheduler.config.clip_sample
    x0 = torch.zeros(1, 3, 4, 4)
    x0[0, 0, 0, 0] = size
    x0.requires_grad_()
    images = Decoder(tiny.pipe, Geometry())(x0)
    assert images[0, 0, 0, 0] == (size > 0) and bool((images.flatten()[1:] == 0.5).all())
    (gradient,) = torch.autograd.grad(images.sum(), x0)
    assert gradient.isfinite().all() and float(gradient[0, 1, 0, 0]) == 0.5


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-20, 1.0, 1e20, 3e38])
def test_length_and_rms_neither_overflow_nor_vanish(scale: float) -> None:
    x = torch.full((2, 3, 4), scale)
    expected = torch.full((2, 1, 1), scale if scale > 1e-38 else float(x[0, 0, 0]))
    torch.testing.assert_close(rms(x) / expected, torch.ones(2, 1, 1))
    if scale < 1e38:
        torch.testing.assert_close(length(x) / expected, torch.full((2, 1, 1), math.sqrt(12)))


@pytest.mark.parametrize("scale", [1e-25, 1e25, 1e33])
@each_method
def test_a_gradient_of_any_size_leaves_images_finite(method: Method, scale: float) -> None:
    tiny = build("sd-v")
    tiny.pipe.scheduler = stochastic(tiny) if method.needs_noise else tiny.pipe.scheduler
    with guide(tiny.pipe, lambda images: scale * brightness(images), method) as log:
        images = tiny.call(steps=3)
    assert images.isfinite().all() and log.skipped == 0
    if scale > 1:
        assert max(entry.move[0] for entry in log.entries) > 0


def stochastic(tiny: Any) -> Any:
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler.from_config(tiny.pipe.scheduler.config)


def breaking(value: float) -> Any:
    """A loss whose value for the first image is not finite, and which is the brightness for the others."""

    def loss(images: Tensor) -> Tensor:
        factor = torch.ones(len(images))
        factor[0] = value
        return brightness(images) * factor

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "method",
    [
        MPGD(5.0),
        MPGD(0.1, rule="rms"),
        DPS(5.0),
        LGD(5.0),
        TFG(5.0),
        FlowChef(1.0),
        FreeDoM(0.1),
        UniversalGuidance(5.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_an_image_whose_loss_is_not_finite_stays_unguided_while_the_other_is_guided(
    method: Method, value: float
) -> None:
    tiny = build("ddim")
    unguided = tiny.call(steps=3, batch=2, batch_size=2)
    with pytest.warns(UserWarning, match=r"\d of the \d+ gradients"), guide(tiny.pipe, breaking(value), method) as log:
        images = tiny.call(steps=3, batch=2, batch_size=2)
    assert images.isfinite().all()
    assert float(brightness(images)[1]) < float(brightness(unguided)[1])
    assert [entry.skipped for entry in log.entries] == [1] * len(log.entries)
    if not method.recurrent:  # time travel draws additional noise
        torch.testing.assert_close(images[0], unguided[0], atol=1e-4, rtol=0)


# Warnings and the log.


@pytest.mark.parametrize("method", [MPGD(1.0), DPS(1.0), DSG(), TFG(1.0, recurrence=2)], ids=lambda m: type(m).__name__)
def test_a_run_without_any_finite_gradient_gives_one_warning(method: Method) -> None:
    tiny = build("ddim")
    with pytest.warns(UserWarning) as caught, guide(tiny.pipe, lambda x: brightness(x) * math.nan, method) as log:
        tiny.call(steps=3, eta=1.0)
    assert len(caught) == 1 and f"{log.gradients} of the {log.gradients} gradients" in str(caught[0].message)
    assert log.skipped == log.gradients == len(log.entries)
    assert f"{log.skipped} of {log.gradients} gradients were not finite" in log.summary()
    assert sum(step["skipped"] for step in log.to_dict()["steps"]) == log.skipped


@pytest.mark.parametrize(("broken", "warns"), [(1, False), (2, True), (4, True)])
def test_many_broken_gradients_give_a_warning_and_a_few_only_a_line_in_the_log(broken: int, warns: bool) -> None:
    tiny, calls = build("ddim"), []

    def loss(images: Tensor) -> Tensor:
        calls.append(1)
        return brightness(images) * (math.nan if len(calls) <= broken else 1.0)

    with guide(tiny.pipe, loss, MPGD(1.0)) as log:
        if warns:
            with pytest.warns(UserWarning, match=f"{broken} of the 4 gradients"):
                tiny.call(steps=4)
        else:
            tiny.call(steps=4)
    assert log.skipped == broken and f"{broken} of 4 gradients" in log.summary()


def test_steps_outside_the_window_are_not_counted() -> None:
    tiny = build("ddim")
    with (
        pytest.warns(UserWarning, match="2 of the 2 gradients"),
        guide(tiny.pipe, lambda x: brightness(x) / 0, MPGD(1.0), window=(0.0, 0.5)) as log,
    ):
        tiny.call(steps=4)
    assert log.gradients == 2
