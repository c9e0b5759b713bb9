"""Tiny pipelines in float64, the arguments of their calls, and their latents, for tests of trajectories."""

from __future__ import annotations

from typing import Any

import torch
from tiny_pipeline import TinyPipeline
from tiny_pipelines import build
from torch import Tensor


def double(family: str) -> TinyPipeline:
    tiny = build(family)
    tiny.pipe.to(torch.float64)
    return tiny


def arguments(tiny: TinyPipeline, batch: int = 2, **overrides: Any) -> dict[str, Any]:
    call = {key: tiny.cast(value) for key, value in tiny.inputs(batch).items()}
    return {**call, "num_inference_steps": 4, **overrides}


def sampled(tiny: TinyPipeline, call: dict[str, Any], **latents: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return tiny.pipe(**call, **latents, generator=generator, output_type="latent").images


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Relative distance of each sample, `(b,)`."""
    return (x - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)


def pixel_pipeline(prediction_type: str) -> Any:
    from diffusers import DDIMScheduler

    pipe = build("ddim").pipe
    pipe.scheduler = DDIMScheduler(clip_sample=False, prediction_type=prediction_type, timestep_spacing="trailing")
    return pipe.to(torch.float64)
