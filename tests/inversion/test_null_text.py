"""Guided sampling follows a trajectory that was inverted without guidance, and leaves it for another prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_pipelines import build
from tiny_unet_pipelines import ddim_scheduler
from torch import Tensor
from trajectories import arguments, distance, double, pixel_pipeline, sampled

from dreamsim_guidance.inversion import Trajectory, invert_trajectory

pytestmark = pytest.mark.filterwarnings("ignore:There are modules in")

PROMPTS = ("prompt_embeds", "pooled_prompt_embeds")


def inverted(family: str, batch: int = 2) -> tuple[Trajectory, dict[str, Any]]:
    """A trajectory of guidance 1, and the call of another prompt."""
    tiny = double(family)
    if family == "sd-v":
        tiny.pipe.scheduler = ddim_scheduler()
    call = arguments(tiny, batch, guidance_scale=1.0)
    other = {name: call[name].flip(-1) for name in PROMPTS if name in call}
    return invert_trajectory(tiny.pipe, x0=sampled(tiny, call), evaluations=25, **call), other


def with_guidance(trajectory: Trajectory, scale: float) -> Tensor:
    """The relative error of the latents that guided sampling makes without any correction."""
    pipe, call = trajectory.pipe, {**trajectory.call, "guidance_scale": scale, "output_type": "latent"}
    return distance(pipe(**call).images, trajectory.x0)


@pytest.mark.parametrize("family", ["sd-v", "sdxl", "sd3"])
def test_null_text_leads_guided_sampling_back_to_the_trajectory(family: str) -> None:
    trajectory, other = inverted(family)
    result = trajectory.null_text(4.0, lr=0.05, stop_below=0.0)
    assert (result.losses < result.losses_before).all()
    assert (result.reconstruct().latent_error < 0.95 * with_guidance(trajectory, 4.0)).all()
    assert result.embeddings.shape == (4, *trajectory.call["prompt_embeds"].shape)
    assert result.evaluations == 4 * 12  # the prompt's prediction, and eleven unconditional ones
    assert not torch.equal(result.edit(**other), result.edit())
    assert torch.equal(trajectory.edit(), trajectory.reconstruct().images)  # nothing stays replaced


def test_null_text_stops_where_the_loss_is_small() -> None:
    trajectory, _ = inverted("sd-v")
    result = trajectory.null_text(4.0, stop_below=1e9)
    assert result.evaluations == 4 * 2 and torch.equal(result.losses, result.losses_before)
    assert torch.allclose(result.reconstruct().latent_error, with_guidance(trajectory, 4.0), rtol=1e-6)


def test_null_text_minimises_a_loss_of_images() -> None:
    trajectory, _ = inverted("sd-v")
    target = trajectory.edit()

    def loss(images: Tensor) -> Tensor:
        return (images - target).square().flatten(1).mean(1)

    result = trajectory.null_text(4.0, loss, lr=0.05, inner_steps=4)
    assert (result.losses <= result.losses_before).all() and (result.losses[:, -1] < result.losses_before[:, -1]).all()
    with pytest.raises(ValueError, match="one value per image"):
        trajectory.null_text(4.0, lambda images: images.mean())


def test_null_text_of_a_batch_is_that_of_single_images() -> None:
    trajectory, _ = inverted("sd-v")
    together = trajectory.null_text(4.0, inner_steps=3)
    for k in range(2):
        tiny = double("sd-v")
        tiny.pipe.scheduler = ddim_scheduler()
        call = {
            key: value[k : k + 1] if isinstance(value, Tensor) else value
            for key, value in trajectory.call.items()
            if key != "latents"
        }
        alone = invert_trajectory(tiny.pipe, x0=trajectory.x0[k : k + 1], evaluations=25, **call)
        embeddings = alone.null_text(4.0, inner_steps=3).embeddings
        assert torch.allclose(embeddings[:, 0], together.embeddings[:, k], atol=1e-4)


@pytest.mark.parametrize("family", ["sd-v", "sdxl", "sd3"])
def test_a_negative_prompt_reconstructs_at_every_guidance(family: str) -> None:
    trajectory, other = inverted(family)
    result = trajectory.negative_prompt(7.5)
    assert result.reconstruct().latent_error.max() < 1e-4 < with_guidance(trajectory, 7.5).min()
    assert not torch.equal(result.edit(**other), result.edit())


def test_a_negative_prompt_of_words() -> None:
    tiny = build("sd")
    tiny.pipe.scheduler = ddim_scheduler()
    call = {"prompt": ["a cat"], "num_inference_steps": 2, "height": 32, "width": 32}
    trajectory = invert_trajectory(tiny.pipe, torch.rand(1, 3, 32, 32), guidance_scale=1.0, **call)
    result = trajectory.negative_prompt(5.0)
    assert result.call["negative_prompt"] == ["a cat"] and result.call["guidance_scale"] == 5.0


def test_embeddings_of_another_number_of_steps_are_refused() -> None:
    trajectory, _ = inverted("sd-v")
    result = trajectory.null_text(4.0, inner_steps=1)
    with pytest.raises(ValueError, match="belong to the steps"):
        result.edit(num_inference_steps=3)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("flux-dev", {}, "guidance embedded in the network, as in FLUX.1, has no unconditional embedding"),
        ("flux-true-cfg", {}, "doubled batch"),
        ("sd-v", {"guidance_scale": 1.0}, "above 1"),
        ("sd-v", {"guidance_scale": float("nan")}, "above 1"),
        ("sd-v", {"inner_steps": 0}, "inner_steps must be at least 1"),
    ],
)
def test_what_null_text_cannot_do_is_refused(family: str, options: dict[str, Any], message: str) -> None:
    trajectory, _ = inverted(family, 1)
    with pytest.raises(ValueError, match=message):
        trajectory.null_text(**options)
    trajectory.edit()  # the pipeline is as it was


def test_a_pipeline_without_prompts_has_no_negative_one() -> None:
    trajectory = invert_trajectory(pixel_pipeline("epsilon"), x0=torch.rand(1, 3, 16, 16), num_inference_steps=2)
    with pytest.raises(ValueError, match="takes a negative one"):
        trajectory.negative_prompt(3.0)
    with pytest.raises(ValueError, match="takes no guidance_scale"):
        trajectory.null_text()
