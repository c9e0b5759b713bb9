"""Common parts of the pocket diffusion models: noise, loss, files, and the comparison of samples with scenes.

With x0 a picture or its latents, eps standard normal noise and a cosine schedule a_t^2 + s_t^2 = 1, a network learns from
x_t = a_t x0 + s_t eps, by mean squared error, either x0 itself ("sample": the smoother target, which a small network learns
faster) or v = a_t eps - s_t x0 ("v_prediction": supported by every scheduler). An error of x0 is weighted as it counts in v,

    |v' - v|^2 = |x0' - x0|^2 / s_t^2,

but by a factor of at most 5. The times of a batch are spread evenly over the schedule, which makes the loss less noisy.

Ho, Jain & Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020; Nichol & Dhariwal, Improved Denoising
Diffusion Probabilistic Models, ICML 2021 (cosine schedule); Salimans & Ho, Progressive Distillation, ICLR 2022 (v).
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.files.atomic import new_folder
from dreamsim_guidance.types import Image

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, DiffusionPipeline

__all__ = [
    "Prediction",
    "cosine_scheduler",
    "distance_to_scenes",
    "noisy",
    "prediction_loss",
    "save_pipeline",
    "spread_times",
]


Prediction = Literal["sample", "v_prediction"]
"""What a network predicts, by diffusers' names: x0 or v."""


def cosine_scheduler(prediction: Prediction, clip: bool) -> DDIMScheduler:
    """A DDIM scheduler over the cosine schedule, starting at pure noise; `clip` keeps estimates of x0 in [-1, 1]."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=clip,
        steps_offset=0 if clip else 1,  # StableDiffusionPipeline asks for 1; trailing steps do not use it
    )


def spread_times(batch: int, steps: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """Draw one time from each of `batch` equal parts of a schedule of `steps` times, in increasing order."""
    u = torch.rand(batch, generator=generator, dtype=torch.float32)
    return ((torch.arange(batch) + u) / batch * steps).long().clamp(max=steps - 1)


def noisy(
    clean: Float[Tensor, "b c h w"], alphas: Float[Tensor, " b"], generator: torch.Generator
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Draw noise and return x_t and v, for a_t^2 = `alphas` in [0, 1]."""
    eps = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).contiguous(memory_format=torch.channels_last)
    a, s = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    return a * clean + s * eps, a * eps - s * clean


def prediction_loss(
    output: Float[Tensor, "b c h w"],
    clean: Float[Tensor, "b c h w"],
    v: Float[Tensor, "b c h w"],
    alphas: Float[Tensor, " b"],
    prediction: Prediction,
) -> Float[Tensor, ""]:
    """Mean squared error of v, or that of x0 with the weights given above."""
    if prediction == "v_prediction":
        return (output - v).square().mean()
    weight = (1 / (1 - alphas)).clamp(max=5.0).view(-1, 1, 1, 1)
    return (weight * (output - clean).square()).mean()


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, finish: Callable[[Path], None] | None = None) -> None:
    """Write the pipeline in float16, replacing `folder`; `finish` may change the files before they appear there."""
    pipeline = copy.deepcopy(pipeline)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            nn.Module.half(part)
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with new_folder(fresh) as temporary:
        pipeline.save_pretrained(temporary, safe_serialization=True)
        if finish is not None:
            finish(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def distance_to_scenes(images: Image, first: int = 0) -> dict[str, float]:
    """Frechet distance, in the judge's features, of images to as many held-out scenes, numbered from `first` on.

    Returns `frechet`; `frechet_of_scenes`, the distance of as many other held-out scenes, which is far from 0 for few
    pictures; and their number `pictures`.
    """
    judge, (count, size) = load_judge(), images.shape[::2][:2]
    features = [
        judge.features(draw_pocket_scenes(count, size, "test", start)[1].float() / 255)
        for start in (first, first + count)
    ]
    return {
        "frechet": frechet_distance(judge.features(images), features[0]),
        "frechet_of_scenes": frechet_distance(features[1], features[0]),
        "pictures": float(count),
    }
