"""What the pocket diffusion models share: noise, the running average of weights, files, and the comparison with scenes.

With x0 a picture or its latents, eps standard normal noise and a cosine schedule a_t^2 + s_t^2 = 1, a network learns from
x_t = a_t x0 + s_t eps, by mean squared error, either x0 itself ("sample": the smooth one of the two, which a small network
learns sooner) or v = a_t eps - s_t x0 ("v_prediction": every scheduler knows it). An error of x0 counts as it would in v,

    |v' - v|^2 = |x0' - x0|^2 / s_t^2,

but at most five times. The times of a batch are spread evenly over the schedule, which makes the loss less noisy.

Ho, Jain & Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020; Nichol & Dhariwal, Improved Denoising
Diffusion Probabilistic Models, ICML 2021 (cosine schedule); Salimans & Ho, Progressive Distillation, ICLR 2022 (v).
"""

from __future__ import annotations

import copy
import logging
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

log = logging.getLogger(__name__)

__all__ = [
    "Average",
    "Prediction",
    "cosine_scheduler",
    "distance_to_scenes",
    "line_writer",
    "noisy",
    "prediction_loss",
    "save_pipeline",
    "spread_times",
]


Prediction = Literal["sample", "v_prediction"]
"""What a network gives, in the words of diffusers."""


class Average(nn.Module):
    """The running average of a module's weights, short at first so that the start is soon forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + int(self.steps)) / (10 + int(self.steps)))
        for mine, new in zip(self.model.parameters(), module.parameters(), strict=True):
            mine.lerp_(new, 1 - decay)


def cosine_scheduler(prediction: Prediction, clip: bool) -> DDIMScheduler:
    """DDIM over the cosine schedule, begun at its noisy end; with `clip` estimates stay in [-1, 1], as pictures do."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        timestep_spacing="trailing",
        clip_sample=clip,
        steps_offset=0 if clip else 1,  # StableDiffusionPipeline asks for 1; trailing steps do not use it
    )


def spread_times(batch: int, steps: int, generator: torch.Generator) -> Int[Tensor, " b"]:
    """One time in each of `batch` equal parts of the schedule, in order."""
    u = torch.rand(batch, generator=generator)
    return ((torch.arange(batch) + u) / batch * steps).long().clamp(max=steps - 1)


def noisy(
    clean: Float[Tensor, "b c h w"], alphas: Float[Tensor, " b"], generator: torch.Generator
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """x_t and v, for a_t^2 = `alphas`."""
    eps = torch.randn(clean.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    a, s = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)
    return a * clean + s * eps, a * eps - s * clean


def prediction_loss(
    output: Float[Tensor, "b c h w"],
    clean: Float[Tensor, "b c h w"],
    v: Float[Tensor, "b c h w"],
    alphas: Float[Tensor, " b"],
    prediction: Prediction,
) -> Float[Tensor, ""]:
    """Mean squared error of v, or that of x0 as the docstring at the top weighs it."""
    if prediction == "v_prediction":
        return (output - v).square().mean()
    weight = (1 / (1 - alphas)).clamp(max=5.0).view(-1, 1, 1, 1)
    return (weight * (output - clean).square()).mean()


def save_pipeline(pipeline: DiffusionPipeline, folder: Path, finish: Callable[[Path], None] | None = None) -> None:
    """Write the pipeline in float16 in place of what `folder` holds; `finish` may change the files before they appear."""
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
    """Frechet distance of the judge's features between images and as many held-out scenes, from number `first` on.

    `frechet_of_scenes` is what as many other held-out scenes reach: with few pictures it is far from 0.
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


def line_writer(path: Path) -> Callable[[str], None]:
    """A function that adds a line to a file."""

    def write(line: str) -> None:
        log.debug(line)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return write
