"""A guide does not disturb other decoding, callbacks, pipelines and threads, and refuses options that do not fit."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from tiny_pipeline import TinyPipeline, squared_distance
from tiny_pipelines import build
from torch import Tensor

from dreamsim_guidance import DreamSim
from dreamsim_guidance.guidance import DPS, MPGD, TFG, GuidanceCallback, LossGuidance, Method, differentiable, guide
from dreamsim_guidance.guidance.judges import judges_of


def brightness(images: Tensor) -> Tensor:
    return (images - 0.2).square().flatten(1).mean(1)


def decoded(tiny: TinyPipeline, latents: Tensor) -> Tensor:
    vae = tiny.pipe.vae
    with torch.no_grad():
        return vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]


@pytest.mark.parametrize("method", [MPGD(1.0), DPS(1.0)], ids=lambda method: type(method).__name__)
def test_decoding_a_preview_in_a_callback_of_the_pipeline_changes_nothing(method: Method) -> None:
    tiny, previews = build("sd"), []

    def preview(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        previews.append(decoded(tiny, kwargs["latents"]))
        return kwargs

    with guide(tiny.pipe, brightness, method) as log:
        plain = tiny.call()
        distance = log.final["distance"]
        assert torch.equal(tiny.call(callback_on_step_end=preview), plain)
    assert len(previews) > 2 and log.final["distance"] == distance


@pytest.mark.parametrize("strength", [0, 1.0])
def test_latents_may_be_changed_in_a_callback_of_the_pipeline(strength: float) -> None:
    def darker(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": 0.99 * kwargs["latents"]}

    tiny = build("sd-v")
    unguided = tiny.call(callback_on_step_end=darker)
    with (
        pytest.warns(UserWarning, match="callback has changed the last latents"),
        guide(tiny.pipe, brightness, MPGD(strength)) as log,
    ):
        images = tiny.call(callback_on_step_end=darker)
    assert torch.equal(images, unguided) == (strength == 0)
    assert log.final["distance"] == pytest.approx(brightness(images).tolist(), rel=1e-4)


def test_a_nested_guide_of_strength_zero_changes_nothing() -> None:
    tiny = build("sd-v")
    with guide(tiny.pipe, brightness, MPGD(1.0)):
        alone = tiny.call()
        with guide(tiny.pipe, brightness, DPS(0)):
            assert torch.equal(tiny.call(), alone)


def test_decoding_other_latents_changes_neither_the_result_nor_the_log() -> None:
    tiny, z = build("sd"), torch.randn(1, 4, 8, 8)
    expected = decoded(tiny, z)
    with guide(tiny.pipe, brightness) as log:
        tiny.call()
        final = log.final["distance"]
        assert torch.equal(decoded(tiny, z), expected)
        assert torch.equal(decoded(tiny, z), expected)
    assert log.final["distance"] == final


def test_two_pipelines_that_share_an_autoencoder_can_be_guided_at_the_same_time() -> None:
    first, second = build("sd-v"), build("sd-v")
    second.pipe.vae = first.pipe.vae
    with guide(first.pipe, brightness, MPGD(5.0)) as first_log, guide(second.pipe, brightness, MPGD(5.0)) as second_log:
        first.call()
        before = first_log.final["distance"]
        second.call(seed=3)
    assert first_log.final["distance"] == before != second_log.final["distance"]


@pytest.mark.parametrize("method", [MPGD(20.0), DPS(20.0), TFG(20.0, recurrence=2)], ids=lambda m: type(m).__name__)
def test_another_pipeline_with_the_same_scheduler_is_not_guided(method: Method) -> None:
    tiny = build("sd-v")
    other = type(tiny.pipe)(**tiny.pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    twin = TinyPipeline(tiny.family, other, tiny.inputs)
    unguided = twin.call(seed=3)
    with guide(tiny.pipe, brightness, method):
        guided = tiny.call(seed=3)
        assert torch.equal(twin.call(seed=3), unguided)
        assert torch.equal(tiny.call(seed=3), guided)
    assert not torch.equal(guided, unguided)


def test_replacing_the_scheduler_inside_the_block_is_an_error() -> None:
    tiny = build("sd")
    with pytest.raises(RuntimeError, match="replace it before"), guide(tiny.pipe, brightness):
        tiny.pipe.scheduler = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config)
        tiny.call()


def test_a_guide_that_another_thread_exits_can_be_entered_again() -> None:
    tiny = build("sd")
    unguided = tiny.call()
    guiding = guide(tiny.pipe, brightness, MPGD(5.0))
    guiding.__enter__()
    thread = threading.Thread(target=guiding.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    results: list[Tensor] = []

    def work() -> None:
        with guide(tiny.pipe, brightness, MPGD(0.0)):
            results.append(tiny.call())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert torch.equal(results[0], unguided)


def test_nan_from_the_denoiser_gives_a_warning_and_not_an_error_of_the_decoder() -> None:
    tiny = build("sd")
    tiny.pipe.unet.conv_out.weight.data.fill_(float("nan"))
    with (
        pytest.warns(UserWarning, match=r"5 of the 5 gradients .* no image was guided"),
        guide(tiny.pipe, brightness, MPGD(1.0)) as log,
    ):
        tiny.call()
    assert log.skipped > 0


@pytest.mark.parametrize("method", [MPGD(5.0), DPS(5.0)], ids=lambda method: type(method).__name__)
def test_a_huge_gradient_still_moves_the_images_and_leaves_them_finite(method: Method) -> None:
    tiny = build("sd")
    with guide(tiny.pipe, lambda images: 1e20 * brightness(images), method) as log:
        images = tiny.call()
    assert images.isfinite().all()
    assert max(entry.move[0] for entry in log.entries) > 0.1


@pytest.mark.parametrize("family", ["z-image", "sd-v", "qwen-image"])
def test_images_of_one_prompt_share_its_reference(family: str) -> None:
    tiny = build(family)
    targets = torch.cat([tiny.target(5), tiny.target(6)])
    with guide(tiny.pipe, squared_distance(targets), MPGD(20.0)) as log:
        images = tiny.call(batch=2, num_images_per_prompt=2)
    expected = squared_distance(targets.repeat_interleave(2, dim=0))(images)
    torch.testing.assert_close(torch.tensor(log.final["distance"]), expected, atol=1e-4, rtol=1e-3)


def test_images_of_one_prompt_share_its_reference_in_a_callback() -> None:
    metric = DreamSim("pocket")
    tiny = build("sd-v")
    target = metric.target(torch.cat([tiny.target(5), tiny.target(6)]))
    callback = GuidanceCallback(tiny.pipe, target, MPGD(0.01))
    tiny.call(batch=2, num_images_per_prompt=2, callback_on_step_end=callback)
    assert len(callback.log.entries[-1].distance) == 4


def test_a_new_guider_takes_the_place_of_the_old_one() -> None:
    tiny, calls = build("modular-sd3"), {"old": 0, "new": 0}

    def counted(name: str) -> Any:
        def loss(images: Tensor) -> Tensor:
            calls[name] += 1
            return brightness(images)

        return loss

    for name in ("old", "new"):
        tiny.pipe.update_components(guider=LossGuidance(tiny.pipe, counted(name)))
    tiny.call()
    assert calls["old"] == 0 and calls["new"] > 0


def test_a_callback_refuses_a_stochastic_run() -> None:
    tiny = build("sd-v")
    with pytest.raises(ValueError, match="deterministic"):
        tiny.call(eta=1.0, callback_on_step_end=GuidanceCallback(tiny.pipe, brightness))


def test_judges_follow_the_mask_the_weights_and_the_sum_of_the_targets() -> None:
    metric, images = DreamSim("pocket"), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    half = torch.where(mask.bool(), images[:1], 1 - images[:1])
    masked = judges_of(metric.target(half, mask))
    assert float(masked["rms"](images[:1])) < 1e-6 and float(masked["1 - ssim"](images[:1])) < 0.3
    first = judges_of(metric.target(images, reduction="mean", weights=[1.0, 0.0]))
    assert float(first["rms"](images[:1])) < 1e-6
    of_sum = judges_of(metric.target(images[:1]) + metric.target(images[1:]))
    single = [judges_of(metric.target(image[None]))["rms"](images[:1]) for image in images]
    torch.testing.assert_close(of_sum["rms"](images[:1]), (single[0] + single[1]) / 2)


def test_every_counts_steps_from_the_first_of_the_window() -> None:
    tiny = build("sd-v")
    for window, every, expected in (((0.3, 1.0), 4, [3, 7]), ((0.3, 0.6), 10, [3]), ((0.0, 1.0), 3, [0, 3, 6, 9])):
        with guide(tiny.pipe, brightness, MPGD(1.0), window=window, every=every) as log:
            tiny.call(steps=10)
        assert [entry.index for entry in log.entries] == expected


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"schedule": lambda share: float("nan")}, ValueError, "finite factors"),
        ({"schedule": lambda share: -1.0}, ValueError, "finite factors"),
        ({"window": 0.5}, ValueError, "two shares"),
        ({"until": "0.3"}, ValueError, "until"),
        ({"judges": [brightness]}, TypeError, "by name"),
        ({"callback": 3}, TypeError, "callback must be a function"),
        ({"judges": {"mean": lambda images: images.mean()}}, ValueError, "judge 'mean'"),
        ({"augmentation": lambda x: torch.cat([x, x])}, ValueError, "as many images"),
    ],
)
def test_wrong_options_are_refused_with_what_is_needed(
    options: Any, error: type[Exception], text: str, unchecked: None
) -> None:
    tiny = build("sd-v")
    with pytest.raises(error, match=text), guide(tiny.pipe, brightness, **options):
        tiny.call()


def test_a_pipeline_loaded_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        tiny = build("sd-v")
    with pytest.raises(RuntimeError, match="load the pipeline outside"), guide(tiny.pipe, brightness):
        pass


def test_an_output_type_without_gradient_is_refused_before_sampling() -> None:
    tiny = build("sd-v")
    with pytest.raises(ValueError, match="output_type"), differentiable(tiny.pipe):
        tiny.call(output_type="np")
