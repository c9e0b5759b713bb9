"""The options of `guide`, and its log, on a tiny pixel pipeline."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance import DreamSim, Loss
from dreamsim_guidance.guidance import DPS, MPGD, TFG, default_method, guide
from dreamsim_guidance.guidance.judges import judges_of
from dreamsim_guidance.guidance.views import Views, cutouts
from dreamsim_guidance.pipelines.decoder import Decoder, Geometry
from dreamsim_guidance.schedule import Linear

TINY = build("ddim")
TARGET = torch.rand(1, 3, *TINY.call(0, 1).shape[-2:], generator=torch.Generator().manual_seed(3))


def loss(images: Tensor) -> Tensor:
    return (images - TARGET).square().flatten(1).mean(1)


def guided_steps(**options) -> list[int]:
    with guide(TINY.pipe, loss, MPGD(3.0), **options) as log:
        TINY.call(0, 8)
    return [entry.index for entry in log.entries if entry.guided]


@pytest.mark.parametrize(("family", "strength"), [("ddim", 0.005), ("sd", 0.03), ("flux-dev", 0.03)])
def test_the_default_method_has_more_strength_for_latents_than_for_pixels(family: str, strength: float) -> None:
    tiny = build(family)
    assert default_method(tiny.pipe) == MPGD(strength)
    with guide(tiny.pipe, tiny.loss()):
        images = tiny.call()
    with guide(tiny.pipe, tiny.loss(), MPGD(strength)):
        assert torch.equal(tiny.call(), images)


def test_window_every_and_schedule_choose_the_guided_steps() -> None:
    assert guided_steps() == list(range(8))
    assert guided_steps(window=(0.25, 0.5)) == [2, 3]
    assert guided_steps(every=3) == [0, 3, 6]
    assert guided_steps(window=(0.5, 1.0), every=2) == [4, 6]
    assert guided_steps(schedule=lambda progress: float(progress < 0.5)) == [0, 1, 2, 3]


def test_a_window_without_steps_leaves_the_run_unguided() -> None:
    base = TINY.call(0, 4)
    for method in (MPGD(3.0), DPS(3.0)):
        with guide(TINY.pipe, loss, method, window=(0.5, 0.5)):
            assert torch.equal(TINY.call(0, 4), base)


def test_a_schedule_scales_the_strength() -> None:
    with guide(TINY.pipe, loss, MPGD(6.0), schedule=lambda progress: 0.5):
        halved = TINY.call(0, 4)
    with guide(TINY.pipe, loss, MPGD(3.0)):
        assert torch.equal(TINY.call(0, 4), halved)


def test_guidance_stops_when_the_distance_falls_to_until() -> None:
    with guide(TINY.pipe, loss, MPGD(3.0)) as log:
        TINY.call(0, 12)
    middle = log.entries[6].distance[0]
    with guide(TINY.pipe, loss, MPGD(3.0), until=middle) as stopped:
        TINY.call(0, 12)
    guided = [entry.guided for entry in stopped.entries]
    assert guided == [True] * sum(guided) + [False] * (12 - sum(guided))  # and does not resume
    assert sum(guided) == 7
    moves = [entry.move[0] for entry in stopped.entries]
    assert all(move > 0 for move in moves[:6]) and not any(moves[6:])


def test_each_image_of_a_batch_stops_when_its_own_distance_falls_to_until() -> None:
    def small_for_the_first_image(images: Tensor) -> Tensor:
        return loss(images) * torch.tensor([1e-3, 1.0])

    with guide(TINY.pipe, small_for_the_first_image, MPGD(3.0), until=0.01) as log:
        TINY.call(0, 4, batch_size=2)
    assert log.entries[0].move[0] == 0
    assert log.entries[0].move[1] > 0


def test_the_log_holds_the_last_run_and_can_be_saved_and_plotted(tmp_path: Path) -> None:
    seen = []
    with guide(TINY.pipe, loss, MPGD(3.0), callback=lambda entry, images: seen.append(images)) as log:
        TINY.call(1, 3)
        images = TINY.call(0, 4)
    assert [entry.index for entry in log.entries] == [0, 1, 2, 3]
    assert log.distance == pytest.approx(loss(images).tolist(), rel=1e-4)
    assert log.entries[-1].distance[0] < log.entries[0].distance[0]
    assert len(seen) == 7 and seen[0].min() >= 0 and seen[0].max() <= 1
    log.save(tmp_path / "log.json")
    assert len(json.loads((tmp_path / "log.json").read_text())["steps"]) == 4
    log.plot(tmp_path / "log.png")
    assert (tmp_path / "log.png").stat().st_size > 1000
    assert "distance" in log.summary()


def test_an_empty_log_says_so() -> None:
    with guide(TINY.pipe, loss) as log:
        pass
    assert log.distance == [] and log.summary() == "nothing was guided yet"
    with pytest.raises(ValueError, match="nothing to plot"):
        log.plot()


def test_judges_do_not_guide_and_the_log_reports_a_judge_that_gets_worse() -> None:
    target = DreamSim("pocket").target(TARGET)
    with guide(TINY.pipe, target, MPGD(0.0)) as before:
        TINY.call(0, 4)
    assert set(before.final) == {"distance", "rms", "1 - ssim"}

    def disagrees(images: Tensor) -> Tensor:
        return -loss(images)

    judges = {"against": disagrees, "with": loss}
    with guide(TINY.pipe, loss, MPGD(0.0), judges=judges) as before:
        TINY.call(0, 4)
    with guide(TINY.pipe, loss, MPGD(3.0), judges=judges, baseline=before) as log:
        TINY.call(0, 4)
    assert log.parted == ["against"]
    assert "adversarial" in log.summary() and "adversarial" not in before.summary()


def test_scheduled_weights_of_a_loss_follow_the_step() -> None:
    seen = []

    class Counted(Loss):
        def forward(self, images: Tensor) -> Tensor:
            return loss(images)

        def at(self, step):
            seen.append(step)
            return self

    with guide(TINY.pipe, Counted(), MPGD(1.0)):
        TINY.call(0, 3)
    assert seen[:3] == [0, 1, 2]
    with guide(TINY.pipe, Linear(1.0, 0.0, steps=3) * Loss.of(loss), MPGD(1.0)) as log:
        TINY.call(0, 3)
    assert log.entries[0].gradient_norm[0] > log.entries[2].gradient_norm[0]


def test_the_gradient_of_views_is_that_of_their_mean_loss() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    target = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def squared(x: Tensor) -> Tensor:
        return (x - target).square().flatten(1).mean(1)

    views = Views(squared, views=3, augmentation=cutouts((16, 16)))
    state = torch.get_rng_state()
    values, gradient = views.gradient(images, step=4)
    assert torch.equal(torch.get_rng_state(), state)
    leaf = images.clone().requires_grad_()
    mean = torch.stack([squared(views._view(leaf, 4, k)) for k in range(3)]).mean(0)
    mean.sum().backward()
    torch.testing.assert_close(values, mean.detach())
    torch.testing.assert_close(gradient, leaf.grad)
    assert not torch.equal(views.gradient(images, step=5)[0], values)


def test_views_do_not_change_the_noise_of_the_sampler() -> None:
    with guide(TINY.pipe, loss, MPGD(1e-9), views=2):
        guided = TINY.call(0, 4, eta=1.0)
    assert float((guided - TINY.call(0, 4, eta=1.0)).abs().max()) < 1e-5


def test_views_and_checkpointing_are_repeatable_and_lower_the_loss() -> None:
    base = TINY.call(0, 4)
    for options in ({"views": 3}, {"checkpointing": True}):
        with guide(TINY.pipe, loss, MPGD(3.0), **options):
            first, again = TINY.call(0, 4), TINY.call(0, 4)
        assert torch.equal(first, again)
        assert float(loss(first)) < float(loss(base))


def test_the_reference_of_a_prompt_serves_all_its_images() -> None:
    references = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def distance(images: Tensor) -> Tensor:
        assert len(images) == 2
        return (images - references).square().flatten(1).mean(1)

    views = Views(distance)
    views.images_per_reference = 3
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = (images - references.repeat_interleave(3, dim=0)).square().flatten(1).mean(1)
    torch.testing.assert_close(views(images, 0), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"window": (0.6, 0.2)}, ValueError, "two shares"),
        ({"every": 0}, ValueError, "every must"),
        ({"views": 0}, ValueError, "views must"),
        ({"until": float("nan")}, ValueError, "until"),
        ({"method": "mpgd"}, TypeError, "guidance method"),
        ({"loss": 3}, TypeError, "callable"),
        ({"loss": DreamSim("pocket")}, TypeError, "metric.target"),
    ],
)
def test_wrong_arguments_are_refused_before_the_block_is_entered(arguments, error, text, unchecked) -> None:
    with pytest.raises(error, match=text):
        guide(**{"pipe": TINY.pipe, "loss": loss, **arguments})


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (lambda images: images.mean(), ValueError, "one value per image"),
        (lambda images: 3.0, TypeError, "must return a tensor"),
        (lambda images: images.detach().flatten(1).mean(1), ValueError, "no gradient"),
    ],
)
def test_a_loss_that_cannot_guide_is_refused_and_leaves_the_pipeline_as_it_was(wrong, error, text) -> None:
    base = TINY.call(0, 2)
    with pytest.raises(error, match=text), guide(TINY.pipe, wrong, TFG()):
        TINY.call(0, 2)
    assert torch.equal(TINY.call(0, 2), base)


def test_the_progress_bar_of_the_pipeline_shows_the_distance() -> None:
    output = io.StringIO()
    TINY.pipe.set_progress_bar_config(file=output, mininterval=0)
    try:
        with guide(TINY.pipe, loss, MPGD(3.0)) as log:
            TINY.call(0, 3)
    finally:
        TINY.pipe.set_progress_bar_config(disable=True)
    assert f"distance={log.entries[-2].distance[0]:.4f}" in output.getvalue()


def test_decoded_estimates_of_any_size_are_bounded_to_the_range_of_pictures() -> None:
    tiny = build("sd")
    tiny.pipe.vae.decoder.conv_out.weight.data.mul_(100)
    decoder = Decoder(tiny.pipe, Geometry())
    x0 = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    images = decoder(x0.requires_grad_())
    assert -0.25 <= float(images.detach().min()) < -0.2 and 1.2 < float(images.detach().max()) <= 1.25
    (gradient,) = torch.autograd.grad(images.sum(), x0)
    assert gradient.isfinite().all() and bool((gradient != 0).any())
    assert decoder.shown(images).min() >= 0


def test_judges_of_several_references_follow_the_targets_reduction() -> None:
    references = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = references.repeat(2, 1, 1, 1)[:3]
    metric = DreamSim("pocket")
    nearest = judges_of(metric.target(references, reduction="min"))["rms"](images)
    torch.testing.assert_close(nearest, torch.zeros(3))
    mean = judges_of(metric.target(references, reduction="mean"))["rms"](images)
    in_turn = judges_of(metric.target(references))["rms"](references)
    assert (mean > 0.1).all()
    torch.testing.assert_close(in_turn, torch.zeros(2))
    assert judges_of(loss) == {}
