"""Pipelines as generators of `invert`: gradients, images, batches, what is refused, and what stays as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pipeline_state import state_of
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build, build_with_scheduler
from tiny_unet_pipelines import ddim_scheduler
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dreamsim_guidance.inversion import RENO, Noise, invert
from dreamsim_guidance.losses import MSE

pytestmark = [
    pytest.mark.filterwarnings("ignore:There are modules in"),
]

FAMILIES = (
    *("sd", "sd-v", "sd-inpaint-9", "sd-controlnet", "sd-ip-adapter", "sdxl", "sdxl-turbo", "lcm"),
    *("sd3", "flux-dev", "flux-schnell", "flux-true-cfg", "qwen-image", "z-image", "sana", "pixart-sigma"),
)


def noise(tiny: TinyPipeline, steps: int = 2, **options: Any) -> Noise:
    inputs = {key: tiny.cast(value) for key, value in tiny.inputs(1).items() if key != "output_type"}
    return Noise(tiny.pipe, num_inference_steps=steps, **{**inputs, **options})


def drawn(through: Noise, n: int = 1, seed: int = 1) -> Tensor:
    return through.sample(n, torch.Generator().manual_seed(seed))


def pipeline_images(through: Noise, latents: Tensor) -> Tensor:
    return through.pipe(**through.arguments(latents), output_type="pt").images


class Double(TorchFunctionMode):
    """Computes in float64 what networks and schedulers convert to float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func, args = Tensor.double, args[:1]
        widened = [torch.float64 if value is torch.float32 else value for value in args]
        return func(*widened, **{k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()})


@pytest.mark.exact
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux-dev", "flux-true-cfg", "sdxl-turbo"])
def test_the_gradient_agrees_with_central_finite_differences(family: str) -> None:
    tiny = build(family)
    tiny.pipe.to(torch.float64)
    if family in ("sd", "sdxl"):  # with guidance of 7.5 and 5
        tiny.pipe.scheduler = ddim_scheduler()
    in_float64 = (
        family.startswith("sdxl") or family == "sd"
    )  # calls that are repeated by the backward pass leave the mode
    with Double():
        through = noise(tiny, steps=1 if family == "sdxl-turbo" else 3, checkpointing=in_float64)
        z, direction = drawn(through).requires_grad_(), drawn(through, seed=2)
        target = torch.rand(1, 3, 32, 32, dtype=torch.float64)

        def loss(latents: Tensor) -> Tensor:
            return (through(latents) - target).square().mean()

        (gradient,) = torch.autograd.grad(loss(z), z)
        with torch.no_grad():
            near, far = (float(loss(z + h * direction) - loss(z - h * direction)) / (2 * h) for h in (1e-3, 2e-3))
    slope = (4 * near - far) / 3  # Richardson: the error of second order is gone
    assert gradient.dtype == torch.float64
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_images_are_the_pipelines_own_before_they_are_clamped(family: str) -> None:
    through = noise(build(family))
    latents = drawn(through, 2).requires_grad_()
    images = through(latents)
    (gradient,) = torch.autograd.grad(images.sum(), latents)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()
    assert torch.allclose(images.detach().clamp(0, 1), pipeline_images(through, latents.detach()), atol=1e-5)
    alone = torch.cat([through(row) for row in latents.detach().split(1)])
    assert torch.allclose(images.detach(), alone, atol=2e-5)


def test_pixels_outside_the_range_keep_their_gradient() -> None:
    through = noise(build("sdxl-turbo"), steps=1)
    latents = drawn(through).requires_grad_()
    images = through(latents)
    outside = (images.detach() < 0) | (images.detach() > 1)
    assert outside.float().mean() > 0.01
    assert torch.autograd.grad(images[outside].sum(), latents)[0].norm() > 0


@pytest.mark.parametrize("family", ["sdxl-turbo", "lcm"])
def test_noise_inside_the_sampler_is_the_same_for_every_sample_and_call(family: str) -> None:
    tiny = build(family)
    through = noise(tiny, steps=3)
    rows = drawn(through).repeat(2, *(1,) * len(through.shape))
    first = through(rows)
    assert torch.allclose(first[0], first[1], atol=1e-5)
    assert torch.equal(first, through(rows))
    assert (first - noise(tiny, steps=3, seed=1)(rows)).abs().mean() > 1e-3


@pytest.mark.parametrize("checkpointing", [True, False])
def test_trainable_networks_and_everything_else_are_as_before(checkpointing: bool) -> None:
    tiny = build("sd")
    tiny.call(steps=2)  # a pipeline's first call sets attributes
    tiny.pipe.unet.requires_grad_(True)
    tiny.pipe.vae.requires_grad_(True)
    before = state_of(tiny.pipe)
    through = noise(tiny, checkpointing=checkpointing)
    latents = drawn(through).requires_grad_()
    through(latents).sum().backward()
    assert latents.grad is not None
    assert state_of(tiny.pipe) == before
    with pytest.raises(ZeroDivisionError):
        invert(lambda images: 1 / 0, through, steps=2, search=1, restarts=1, progress=False)
    assert state_of(tiny.pipe) == before


@pytest.mark.parametrize("family", ["sd-v", "sd3", "flux-true-cfg"])
def test_checkpointing_changes_the_memory_and_not_the_gradient(family: str) -> None:
    tiny, sizes, gradients = build(family), [], []
    for checkpointing in (True, False):
        through = noise(tiny, steps=4, checkpointing=checkpointing)
        latents, saved = drawn(through).requires_grad_(), []
        through(latents.detach())

        def pack(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            images = through(latents)
        sizes.append(sum(saved))
        gradients.append(torch.autograd.grad(images.sum(), latents)[0])
    assert sizes[0] < 0.05 * sizes[1]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_the_noise_of_an_own_image_is_approached_and_the_result_is_what_the_pipeline_makes() -> None:
    through = noise(build("flux-schnell"), steps=1)
    target = through(drawn(through, seed=5)).clamp(0, 1)
    options: dict[str, Any] = {"steps": 20, "optimiser": "lbfgs", "search": 8, "restarts": 1, "progress": False}
    through.penalty = None
    result = invert(MSE(target), through, **options)
    assert float(result.loss) < float(result.history["loss"][0]) / 10
    leaf = result.leaves["leaf"]
    assert torch.allclose(pipeline_images(through, leaf), result.images.clamp(0, 1), atol=1e-5)
    again = invert(MSE(target), through, **options)
    assert torch.equal(again.images, result.images) and torch.equal(again.leaves["leaf"], leaf)


def test_a_batch_is_optimised_as_its_samples_are_alone() -> None:
    through = noise(build("flux-schnell"), steps=1)
    starts, targets = drawn(through, 2), through(drawn(through, 2, seed=7)).clamp(0, 1)
    together = invert(MSE(targets), through, starts, 4, progress=False)
    for i in range(2):
        alone = invert(MSE(targets[i : i + 1]), through, starts[i : i + 1], 4, progress=False)
        assert torch.allclose(alone.images[0], together.images[i], atol=1e-3)
        assert float(alone.loss) == pytest.approx(float(together.loss[i]), rel=1e-3)


def test_reno_is_momentum_with_clipped_gradients_and_the_penalty_on_the_length() -> None:
    through = noise(build("sdxl-turbo"), steps=1)
    target = torch.rand(1, 3, 32, 32)
    loss = 50 * MSE(target)
    result = invert(loss, through, **{**RENO, "steps": 6}, progress=False)
    latents = drawn(through, seed=0).requires_grad_()
    reference = torch.optim.SGD([latents], lr=5.0, momentum=0.9, nesterov=True)
    totals, norms = [], []
    for _ in range(7):
        r, freedom = latents.norm(), latents.numel() - 1
        penalty = 0.01 * (0.5 * r.square() - freedom * r.log() - 0.5 * freedom * (1 - math.log(freedom)))
        images = through(latents)
        inside = images.clamp(0, 1)
        bounded = inside + (images - inside) / (1 + 4 * (images - inside).abs())
        total = 50 * (bounded - target).square().mean() + penalty
        totals.append(float(total.detach()))
        reference.zero_grad()
        total.backward()
        norms.append(float(latents.grad.norm()))  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_([latents], 0.1)
        reference.step()
    assert max(norms) > 0.1 > min(norms)  # the bound matters
    assert result.history["loss"][:, 0].tolist() == pytest.approx(totals, rel=1e-4, abs=1e-4)


def test_several_prompts_make_one_image_each_as_they_do_alone() -> None:
    tiny = build("sd")
    prompts = ["a cat on a sofa", "red houses"]
    through = noise(tiny, prompt=prompts)
    targets = torch.rand(2, 3, 32, 32)
    options: dict[str, Any] = {"steps": 2, "search": 3, "restarts": 2, "progress": False}
    together = invert(MSE(targets), through, **options)
    for i, prompt in enumerate(prompts):
        alone = invert(MSE(targets[i : i + 1]), noise(tiny, prompt=prompt), **options)
        assert torch.allclose(alone.images[0], together.images[i], atol=1e-4)
        assert torch.allclose(alone.leaves["leaf"][0], together.leaves["leaf"][i], atol=1e-4)
    with pytest.raises(ValueError, match=r"n a multiple of the number of prompts, 2, got \(3, 4, 8, 8\)"):
        through(torch.zeros(3, 4, 8, 8))


def test_prompts_are_encoded_once_for_each_size_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, calls = build("sd"), []
    encode = tiny.pipe.text_encoder.forward
    monkeypatch.setattr(tiny.pipe.text_encoder, "forward", lambda *a, **k: calls.append(1) or encode(*a, **k))
    through = noise(tiny)
    once = len(calls)
    assert once > 0
    images = through(drawn(through))
    through(drawn(through, seed=2))
    assert len(calls) == once
    through(drawn(through, 2))
    assert len(calls) == 2 * once
    assert torch.equal(through(drawn(through)), images)


def test_the_penalty_is_lowest_at_the_length_of_normal_noise_without_correlations() -> None:
    tiny = build("flux-dev")
    through = noise(tiny, norm=0.01, whiteness=10.0)
    latents = drawn(through, 3)
    assert through.penalty is not None
    typical = through.penalty(latents)
    assert typical.shape == (3,) and (typical >= 0).all()
    grid = tiny.pipe._unpack_latents(latents, 32, 32, tiny.pipe.vae_scale_factor)
    smooth = torch.nn.functional.avg_pool2d(grid, 3, 1, 1)
    smooth = tiny.pipe._pack_latents(smooth / smooth.std(), 3, *grid.shape[1:])
    assert (through.penalty(smooth) > typical + 1).all()
    length_only = noise(tiny).penalty
    assert length_only is not None
    for factor in (0.7, 1.4):
        assert (length_only(factor * latents) > length_only(latents) + 0.01).all()
    r = latents.flatten(1).norm(dim=1).view(3, 1, 1)
    assert (length_only((latents.numel() / 3 - 1) ** 0.5 * latents / r).abs() < 1e-4).all()


def test_projected_noise_keeps_its_length() -> None:
    through = noise(build("sdxl-turbo"), steps=1, project=True, norm=0.0)
    assert through.penalty is None
    result = invert(MSE(torch.rand(1, 3, 32, 32)), through, steps=3, lr=1.0, search=1, restarts=1, progress=False)
    assert int(result.best_step) > 0
    assert float(result.leaves["leaf"].norm()) == pytest.approx(16.0, rel=1e-5)


def test_half_precision_pipelines_optimise_noise_in_float32() -> None:
    tiny = build("sdxl-turbo")
    tiny.pipe.to(torch.bfloat16)
    through = noise(tiny, steps=1)
    latents = drawn(through).requires_grad_()
    images = through(latents)
    assert latents.dtype == images.dtype == torch.float32
    assert torch.autograd.grad(images.sum(), latents)[0].norm() > 0


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("ddim", "DDIMPipeline takes no `latents`"),
        ("modular-sd3", "takes no `latents`"),
        ("sd-img2img", "starts from an image and not from noise alone"),
        ("flux-img2img", "starts from an image and not from noise alone"),
        ("flux2", "takes `latents` in another layout"),
        ("flux2-klein", "takes `latents` in another layout"),
    ],
)
def test_pipelines_without_initial_noise_of_their_own_are_refused(family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise(build(family))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": torch.zeros(1, 4, 8, 8)}, "leave latents out.*they are set here"),
        ({"output_type": "pt"}, "leave output_type out"),
        ({"return_dict": False}, "leave return_dict out"),
        ({"generator": None}, "leave generator out.*seed="),
        ({"num_images_per_prompt": 2}, "leave num_images_per_prompt out.*that of the latents"),
        ({"norm": -1.0}, "norm must be at least 0"),
        ({"whiteness": float("nan")}, "whiteness must be at least 0"),
    ],
)
def test_arguments_that_are_chosen_here_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noise(build("sdxl-turbo"), **options)


def test_wrong_shapes_of_noise_are_refused() -> None:
    through = noise(build("sdxl-turbo"), steps=1)
    with pytest.raises(ValueError, match=r"must have the shape \(n, 4, 8, 8\) .*, got \(1, 4, 8, 4\)"):
        through(torch.zeros(1, 4, 8, 4))


def test_a_sampler_with_random_numbers_of_its_own_is_refused() -> None:
    tiny = build("flux-dev")
    tiny.pipe.scheduler.register_to_config(stochastic_sampling=True)
    with pytest.raises(ValueError, match="draws random numbers that its `generator` does not decide"):
        through = noise(tiny)
        through(drawn(through))


def test_a_pipeline_that_runs_its_denoiser_without_autograd_is_refused() -> None:
    tiny = build("sdxl-turbo")
    forward = tiny.pipe.unet.forward
    tiny.pipe.unet.forward = torch.no_grad()(forward)
    step = tiny.pipe.scheduler.step
    tiny.pipe.scheduler.step = torch.no_grad()(step)
    through = noise(tiny, steps=1)
    with pytest.raises(ValueError, match="passes no gradient from its result to its latents"):
        through(drawn(through).requires_grad_())


def test_latents_that_the_pipeline_decodes_in_another_way_are_refused_unless_decode_is_given() -> None:
    tiny = build("sdxl-turbo")
    decode = tiny.pipe.vae.decode
    tiny.pipe.vae.decode = lambda z, *args, **kwargs: decode(z, *args, **kwargs)
    original = tiny.pipe.scheduler
    through = noise(tiny, steps=1)
    vae_input = through.decoder.vae_input
    through.decoder.vae_input = lambda x0: 1.1 * vae_input(x0)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="Pass decode="):
        through(drawn(through))
    own = noise(tiny, steps=1, decode=lambda x0: x0[:, :3].sigmoid())
    assert own(drawn(own)).shape == (1, 3, 8, 8)
    assert tiny.pipe.scheduler is original


@pytest.mark.parametrize("name", ["DDIM-v", "PNDM-e", "DPMSolverMultistep-e", "UniPCMultistep-v", "Heun-e", "LMS-e"])
def test_other_schedulers_are_left_as_they_were(name: str) -> None:
    tiny = build_with_scheduler(name)
    before = state_of(tiny.pipe)["scheduler values"]
    through = noise(tiny, steps=3)
    latents = drawn(through).requires_grad_()
    first = through(latents)
    (gradient,) = torch.autograd.grad(first.sum(), latents)
    assert gradient.norm() > 0 and torch.equal(first, through(latents))
    assert state_of(tiny.pipe)["scheduler values"] == before


def test_a_loss_that_is_not_a_number_ends_the_run_with_its_best_step() -> None:
    through = noise(build("flux-schnell"), steps=1)
    calls: list[int] = []

    def loss(images: Tensor) -> Tensor:
        calls.append(1)
        return images.square().mean((1, 2, 3)) * (torch.nan if len(calls) > 4 else 1.0)

    result = invert(loss, through, steps=30, search=1, restarts=1, progress=False)
    assert result.loss.isfinite().all()
    assert len(result.history["loss"]) <= 30
    with pytest.raises(FloatingPointError, match="never finite"):
        invert(lambda images: images.mean((1, 2, 3)) * torch.nan, through, steps=2, progress=False, search=1)
