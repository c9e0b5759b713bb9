"""Sampling is inverted exactly where it can be, the residuals say how exactly, and what cannot be inverted is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build, build_with_scheduler
from tiny_schedulers import CONFIGURATIONS, scheduler
from tiny_unet_pipelines import ddim_scheduler
from torch import Tensor
from trajectories import arguments, distance, double, pixel_pipeline, sampled

from dreamsim_guidance.data.scenes.drawing import draw
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.inversion import invert_trajectory
from dreamsim_guidance.pocket import load_pocket

FAMILIES = ("sd-v", "sdxl", "sd3", "flux-dev", "flux-schnell", "flux-true-cfg")
MEMORYLESS = ("DDIM", "DDIMParallel", "Euler", "EulerKarras", "EDMEuler", "FlowMatchEuler", "TCD")
FLOAT32_STEPS = 1e-6
"""Bound of errors for schedulers that compute in float32 whatever the dtype: Euler and flow-matching Euler."""

pytestmark = pytest.mark.filterwarnings("ignore:There are modules in")


def replace_denoiser(tiny: TinyPipeline, monkeypatch: pytest.MonkeyPatch, predict: Any) -> None:
    monkeypatch.setattr(tiny.pipe.unet, "forward", lambda sample, t, **_: (predict(sample, t),))


def gaussian(monkeypatch: pytest.MonkeyPatch, guidance_scale: float = 1.0, steps: int = 50) -> Any:
    """A pipeline with the exact denoiser of Gaussian data, its call, initial noises and what they become.

    Without the prompt the data has another mean and variance.
    """
    tiny = double("sd-v")
    tiny.pipe.scheduler = ddim_scheduler()
    generator = torch.Generator().manual_seed(1)
    mean, spread = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    variance = 0.05 + 2 * spread.abs()

    def predict(sample: Tensor, t: Tensor) -> Tensor:
        squared = tiny.pipe.scheduler.alphas_cumprod[int(t)].double()
        a, s = squared.sqrt(), (1 - squared).sqrt()
        with_prompt = s * (sample - a * mean) / (a**2 * variance + s**2)
        if guidance_scale == 1:
            return with_prompt
        without = s * sample / (1.5 * a**2 + s**2)
        return torch.cat([without.chunk(2)[0], with_prompt.chunk(2)[1]])

    replace_denoiser(tiny, monkeypatch, predict)
    call = arguments(tiny, num_inference_steps=steps, guidance_scale=guidance_scale)
    noise = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    return tiny, call, noise, sampled(tiny, call, latents=noise)


def test_a_constant_prediction_is_inverted_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = double("sd-v")
    tiny.pipe.scheduler = ddim_scheduler()
    constant = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    replace_denoiser(tiny, monkeypatch, lambda sample, t: constant.expand_as(sample))
    call = arguments(tiny, num_inference_steps=50, guidance_scale=1.0)
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    x0 = sampled(tiny, call, latents=noise)
    for method in ("anderson", "ddim"):  # which has no error here
        result = invert_trajectory(tiny.pipe, x0=x0, method=method, **call)
        assert distance(result.noise, noise).max() < 1e-12
        assert result.reconstruct().latent_error.max() < 1e-12


def test_gaussian_data_is_inverted_in_fifty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, call, noise, x0 = gaussian(monkeypatch)
    result = invert_trajectory(tiny.pipe, x0=x0, tolerance=1e-12, **call)
    assert distance(result.noise, noise).max() < 1e-10
    assert result.converged.all() and result.residuals.shape == (2, 50)
    assert result.evaluations < 500  # converged steps leave evaluations out


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9])
def test_the_residuals_predict_the_error_of_the_noise(monkeypatch: pytest.MonkeyPatch, tolerance: float) -> None:
    tiny, call, noise, x0 = gaussian(monkeypatch)
    result = invert_trajectory(tiny.pipe, x0=x0, tolerance=tolerance, **call)
    ratio = distance(result.noise, noise) / result.residuals.sum(1)
    assert result.converged.all()
    assert ((ratio > 0.3) & (ratio < 6)).all(), ratio


@pytest.mark.parametrize("evaluations", [3, 5, 8])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0, 7.5])
def test_the_plain_iteration_is_never_better_at_equal_evaluations(
    monkeypatch: pytest.MonkeyPatch, guidance_scale: float, evaluations: int
) -> None:
    tiny, call, noise, x0 = gaussian(monkeypatch, guidance_scale, steps=20)
    results = {
        method: invert_trajectory(tiny.pipe, x0=x0, method=method, evaluations=evaluations, **call)
        for method in ("anderson", "fixed-point")
    }
    anderson, plain = results["anderson"], results["fixed-point"]
    assert anderson.evaluations <= plain.evaluations
    assert (anderson.residuals.amax(1) <= plain.residuals.amax(1)).all()
    if guidance_scale == 1:
        assert (distance(anderson.noise, noise) <= distance(plain.noise, noise)).all()


def test_the_error_of_ddim_inversion_is_of_first_order(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for steps in (25, 50, 100):
        tiny, call, noise, x0 = gaussian(monkeypatch, steps=steps)
        result = invert_trajectory(tiny.pipe, x0=x0, method="ddim", **call)
        assert result.evaluations == 2 * steps
        errors.append(float(distance(result.noise, noise).mean()))
    assert 1.5 < errors[0] / errors[1] < 3 and 1.5 < errors[1] / errors[2] < 3, errors


@pytest.mark.parametrize("family", FAMILIES)
def test_the_latents_come_back_in_every_family(family: str) -> None:
    tiny = double(family)
    call = arguments(tiny, num_inference_steps=8)
    x0 = sampled(tiny, call)
    errors = {}
    for method in ("anderson", "ddim"):
        result = invert_trajectory(tiny.pipe, x0=x0, method=method, evaluations=25, **call)
        errors[method] = result.reconstruct().latent_error.max()
    assert errors["anderson"] < FLOAT32_STEPS < 1e-3 < errors["ddim"], errors


@pytest.mark.parametrize("family", ["sd-v", "sdxl", "sd3", "flux-dev"])
def test_an_image_is_inverted_through_the_autoencoder(family: str) -> None:
    tiny = double(family)
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    call = {key: value for key, value in arguments(tiny, guidance_scale=1.0).items() if key not in ("height", "width")}
    result = invert_trajectory(tiny.pipe, image, evaluations=40, **call)
    images = tiny.pipe(**result.call | {"output_type": "pt"}).images
    again = result.reconstruct()
    assert torch.equal(images, again.images) and images.shape == image.shape
    assert result.round_trip is not None and again.psnr is not None and again.floor is not None
    residual = result.residuals.max()
    assert torch.allclose(again.images, result.round_trip, atol=max(1e-5, 100 * float(residual)))
    assert torch.allclose(again.floor, -10 * (result.round_trip - image).square().flatten(1).mean(1).log10())


def test_round_trip_is_the_autoencoders_own() -> None:
    tiny = double("sd-v")
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    result = invert_trajectory(tiny.pipe, image, method="ddim", **arguments(tiny, 1))
    vae = tiny.pipe.vae
    with torch.no_grad():
        latents = vae.encode(2 * image - 1).latent_dist.mode()
        decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    inside = (decoded > 0) & (decoded < 1)
    assert torch.allclose(result.x0, latents * vae.config.scaling_factor)
    assert torch.allclose(result.round_trip[inside], decoded[inside])  # type: ignore[index]


def test_a_batch_gives_what_single_images_give(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, call, _, x0 = gaussian(monkeypatch, steps=10)
    together = invert_trajectory(tiny.pipe, x0=x0, tolerance=0.0, evaluations=6, **call)
    for k in range(2):
        single = {key: value[k : k + 1] if isinstance(value, Tensor) else value for key, value in call.items()}
        alone = invert_trajectory(tiny.pipe, x0=x0[k : k + 1], tolerance=0.0, evaluations=6, **single)
        assert torch.allclose(alone.noise[0], together.noise[k], rtol=1e-9, atol=1e-9)


def test_unsolved_steps_are_reported_with_their_best_iterate(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, call, _, x0 = gaussian(monkeypatch, guidance_scale=7.5, steps=10)
    result = invert_trajectory(tiny.pipe, x0=x0, **call)
    assert not result.converged.any() and result.residuals.max() > 1e-4
    assert result.noise.isfinite().all() and result.residuals.isfinite().all()


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if CONFIGURATIONS[name].family in ("sd-v", "sd3")])
def test_a_scheduler_is_inverted_or_refused(name: str) -> None:
    tiny = build_with_scheduler(name)
    call = arguments(tiny, 1, guidance_scale=1.0)
    x0 = sampled(tiny, call)
    kind, _, prediction = name.partition("-")
    if kind in MEMORYLESS and prediction != "stochastic":
        result = invert_trajectory(tiny.pipe, x0=x0, evaluations=30, **call)
        assert result.reconstruct().latent_error.max() < 1e-5  # float32
        return
    with pytest.raises(ValueError, match=r"cannot be inverted here: .*DDIMScheduler\.from_config"):
        invert_trajectory(tiny.pipe, x0=x0, **call)


def test_clipping_is_refused_with_the_setting_that_ends_it() -> None:
    tiny = build("sd-v")
    tiny.pipe.scheduler = ddim_scheduler(clip_sample=True)
    with pytest.raises(ValueError, match=r"clips .*from_config\(pipe.scheduler.config, clip_sample=False\)"):
        invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), **arguments(tiny, 1))


def test_noise_of_ddim_is_refused() -> None:
    tiny = build("sd-v")
    with pytest.raises(ValueError, match=r"add noise.*eta=0"):
        invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), eta=0.5, **arguments(tiny, 1))


def test_pipelines_that_start_from_no_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="text-to-image"):
        invert_trajectory(build("flux-img2img").pipe, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.rand(1, 3, 32, 32) + 1}, r"lie in \[0, 1\]"),
        ({"image": torch.full((1, 3, 32, 32), torch.nan)}, r"lie in \[0, 1\]"),
        ({"image": torch.rand(3, 32, 32)}, r"\(b, 3, h, w\)"),
        ({"image": torch.rand(2, 3, 32, 32)}, "number of images must be that of the prompts"),
        ({"image": None}, "either an image or x0"),
        ({"x0": torch.rand(1, 4, 8, 8)}, "either an image or x0"),
        ({"image": None, "x0": torch.rand(1, 4, 9, 8)}, "shape of the pipeline's latents"),
        ({"image": None, "x0": torch.full((1, 4, 8, 8), torch.inf)}, "not finite"),
        ({"method": "renoise"}, "unknown method 'renoise'; known: anderson"),
        ({"evaluations": 1}, "at least 2"),
        ({"output_type": "pil"}, "without output_type"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    tiny = build("sd-v")
    with pytest.raises(ValueError, match=message):
        invert_trajectory(tiny.pipe, **{"image": torch.rand(1, 3, 32, 32), **arguments(tiny, 1), **change})


@contextmanager
def unchanged(pipe: Any) -> Iterator[None]:
    """Check that nothing stays replaced on the pipeline and its parts."""
    parts = [pipe, pipe.scheduler, pipe.unet, pipe.vae]
    before = [{name for name, value in vars(part).items() if callable(value)} for part in parts]
    yield
    assert [{name for name, value in vars(part).items() if callable(value)} for part in parts] == before


def test_the_pipeline_is_restored_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = build("sd-v")
    call = arguments(tiny, 1)
    expected = tiny.call()
    with unchanged(tiny.pipe):
        invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), **call)
    tiny.pipe.scheduler = scheduler("EulerAncestral-e")
    with unchanged(tiny.pipe), pytest.raises(ValueError, match="add noise"):
        invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), **call)
    tiny.pipe.scheduler = ddim_scheduler(prediction_type="v_prediction")
    assert torch.equal(tiny.call(), expected)


def test_the_pocket_model_gives_its_own_image_back() -> None:
    pipe = load_pocket("latents")
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": ["a red circle"], "num_inference_steps": 10, "guidance_scale": 1.0}
    x0 = pipe(**call, generator=torch.Generator().manual_seed(0), output_type="latent").images
    solved = invert_trajectory(pipe, x0=x0, **call)
    plain = invert_trajectory(pipe, x0=x0, method="ddim", **call)
    error = solved.reconstruct().latent_error
    assert error.max() < 0.1 * plain.reconstruct().latent_error.max()
    assert (error < 3 * solved.residuals.sum(1)).all()  # the last step is not solved to rounding, and says so


@pytest.mark.parametrize("family", ["flux2", "qwen-image", "z-image", "sana", "pixart-alpha", "pixart-sigma"])
def test_other_latent_pipelines_with_an_ordinary_loop_are_inverted(family: str) -> None:
    tiny = build(family)
    if family == "sana":
        tiny.pipe.scheduler = scheduler("FlowMatchEuler")
    if family == "pixart-alpha":
        tiny.pipe.scheduler = ddim_scheduler()
    call = arguments(tiny)
    x0 = sampled(tiny, call)
    result = invert_trajectory(tiny.pipe, x0=x0, evaluations=20, **call)
    assert (
        result.reconstruct().latent_error.max() < 1e-4 < distance(result.noise.reshape(x0.shape), x0).min()
    )  # float32
    assert torch.equal(tiny.pipe(**result.call, output_type="pt").images, result.edit())


def test_a_sampler_of_pixels_is_inverted() -> None:
    pipe = pixel_pipeline("v_prediction")
    size = pipe.unet.config.sample_size
    image = 0.3 + 0.4 * torch.rand(2, 3, size, size, dtype=torch.float64)
    result = invert_trajectory(pipe, image, num_inference_steps=4, evaluations=30)
    again = result.reconstruct()
    plain = invert_trajectory(pipe, image, num_inference_steps=4, method="ddim").reconstruct()
    assert (again.latent_error < 4 * result.residuals.sum(1)).all() and "latents" not in result.call
    assert again.latent_error.max() < 0.2 * plain.latent_error.max()
    assert torch.equal(again.images, result.edit())
    assert (again.floor > 200).all()  # type: ignore[operator]
    with pytest.raises(ValueError, match="samples images"):
        invert_trajectory(pipe, torch.rand(1, 3, size + 8, size))


def test_pixels_of_the_pocket_model_come_back() -> None:
    from diffusers import DDIMScheduler

    pipe = load_pocket("pixels")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    image = draw(pocket_scene(0, "test"), 32)
    psnr = {}
    for method in ("ddim", "fixed-point", "anderson"):
        again = invert_trajectory(pipe, image, method=method, num_inference_steps=10).reconstruct()
        assert again.psnr is not None
        psnr[method] = float(again.psnr)
    assert psnr["ddim"] + 10 < psnr["fixed-point"] < psnr["anderson"], psnr
