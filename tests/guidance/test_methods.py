"""Properties of the guidance methods, on a tiny pixel pipeline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance.guidance import (
    DPS,
    DSG,
    LGD,
    MMPS,
    MPGD,
    TFG,
    FlowChef,
    FreeDoM,
    Method,
    UniversalGuidance,
    guide,
)

TINY = build("ddim")
TARGET = torch.rand(1, 3, *TINY.call(0, 1).shape[-2:], generator=torch.Generator().manual_seed(3))


def loss(images: Tensor) -> Tensor:
    return (images - TARGET).square().flatten(1).mean(1)


def run(method: Method, eta: float = 0.0, **options) -> Tensor:
    with guide(TINY.pipe, loss, method, **options):
        return TINY.call(0, 6, eta=eta)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(
    "method",
    [
        MPGD(3.0),
        MPGD(3.0, rule="raw"),
        MPGD(0.1, rule="rms"),
        DPS(3.0),
        LGD(3.0),
        MMPS(3.0),
        FreeDoM(0.1),
        UniversalGuidance(1.0),
        TFG(2.0),
        FlowChef(1.0),
    ],
    ids=lambda method: f"{type(method).__name__}-{getattr(method, 'rule', '')}",
)
def test_every_method_brings_the_images_closer(method: Method, eta: float) -> None:
    assert float(loss(run(method, eta))) < float(loss(TINY.call(0, 6, eta=eta)))


@pytest.mark.parametrize(
    ("tfg", "method"),
    [
        (TFG(1.0, rho=1, mu=0, sigma=0), DPS(1.0)),
        (TFG(1.0, rho=0, mu=1, sigma=0, iterations=1), MPGD(1.0, cap=0.5)),
        (TFG(1.0, rho=0, mu=1, sigma=0, iterations=1, cap=None), MPGD(1.0, rule="raw")),
        (TFG(1.0, rho=1, mu=0, sigma=1, samples=4), LGD(1.0, samples=4)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_tfg_with_these_settings_equals_the_other_method(tfg: Method, method: Method) -> None:
    difference = float((run(tfg) - run(method)).abs().max())
    moved = float((run(method) - TINY.call(0, 6)).abs().max())
    assert difference < 1e-3 * moved


def test_lgd_without_spread_is_dps() -> None:
    assert torch.equal(run(LGD(1.0, spread=0.0)), run(DPS(1.0)))


def test_a_recurrence_repeats_each_step_in_its_window() -> None:
    calls = []
    hook = TINY.pipe.unet.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    for method, expected in ((TFG(recurrence=3), 18), (FreeDoM(recurrence=2, recurrence_window=(0.0, 0.5)), 9)):
        calls.clear()
        assert run(method).isfinite().all()
        assert len(calls) == expected
    hook.remove()


def test_every_move_is_bounded_by_the_cap() -> None:
    for cap in (0.05, 0.5):
        with guide(TINY.pipe, loss, MPGD(1e6, cap=cap)) as log:
            TINY.call(0, 6)
        assert [entry.move[0] for entry in log.entries] == pytest.approx([cap] * 6, rel=1e-3)


def test_dsg_with_almost_no_strength_makes_the_step_of_the_sampler() -> None:
    unguided = TINY.call(0, 6, eta=1.0)
    assert float((run(DSG(1e-7), eta=1.0) - unguided).abs().max()) < 1e-4
    assert float(loss(run(DSG(0.5), eta=1.0))) < float(loss(unguided))


def test_dsg_refuses_samplers_without_noise() -> None:
    with pytest.raises(ValueError, match="stochastic sampler"):
        run(DSG(), eta=0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: MPGD(-1.0),
        lambda: MPGD(float("nan")),
        lambda: MPGD(rule="other"),  # type: ignore[arg-type]
        lambda: LGD(samples=0),
        lambda: MMPS(solves=0),
        lambda: TFG(rho=0, mu=0),
        lambda: TFG(recurrence=0),
        lambda: TFG(rho_course="other"),  # type: ignore[arg-type]
        lambda: FreeDoM(recurrence=0),
        lambda: FreeDoM(recurrence_window=(0.7, 0.3)),
        lambda: FlowChef(iterations=0),
        lambda: UniversalGuidance(recurrence=0),
    ],
)
def test_impossible_settings_are_refused(wrong, unchecked) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        wrong()


def test_an_image_does_not_depend_on_the_other_images_of_its_batch() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    with guide(TINY.pipe, loss, MPGD(3.0)):
        both = TINY.call(None, 4, batch_size=2, generator=generators)
        second = TINY.call(None, 4, batch_size=1, generator=[torch.Generator().manual_seed(1)])
    assert float((both[1:] - second).abs().max()) < 1e-4


def test_a_method_only_needs_a_call_that_makes_the_step() -> None:
    class Unguided(Method):
        def __call__(self, step):
            return step.sample()

    assert torch.equal(run(Unguided()), TINY.call(0, 6))

    class WithoutStep(Method):
        def __call__(self, step):
            return step.x_t

    with pytest.raises(RuntimeError, match="must call step"):
        run(WithoutStep())


def test_methods_are_compared_by_value_and_can_be_copied_with_changes() -> None:
    assert replace(MPGD(1.0), strength=2.0) == MPGD(2.0)
    assert "strength=2.0" in repr(MPGD(2.0))
