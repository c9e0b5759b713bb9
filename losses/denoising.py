"""How improbable a diffusion model finds an image: its own training loss on that image, with noise added.

    loss(x) = mean over levels of |eps_hat(a z + s eps, prompt) - eps|^2 / d,      z = encode(x)

A model denoises the images best that it was trained on, and images that an optimiser has driven away from them badly. Optimised
noise can keep its distribution while its image leaves that of the model, since the sampler is far from linear; Zhai et al. find
that a constraint on the noise is therefore not enough and add one on the image, a surrogate of a KL divergence from the frozen
model's scores. This loss is the plain term of the variational bound of Ho et al., not their surrogate.

Ho et al., Denoising Diffusion Probabilistic Models, NeurIPS 2020; Zhai et al., MIRA: Towards Mitigating Reward Hacking in
Inference-Time Alignment of T2I Diffusion Models, arXiv 2510.01549, 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.pipelines.encoder import encode
from dreamsim_guidance.pipelines.repeated_call import RepeatedCall
from dreamsim_guidance.pipelines.single_step import SingleStep
from dreamsim_guidance.types import Distance, Image
from dreamsim_guidance.views import numbered_generator

__all__ = ["DenoisingError"]


class DenoisingError(Loss):
    """Mean squared error of the noise that a pipeline's denoiser finds in noised images, `(b,)`, 0 or more.

    A perfect denoiser of unknown images is above 0; what counts is the difference to images that the model knows. The images
    must have the size of the pipeline's call.

    pipe: a latent diffusion pipeline, see `Noise`. It is left as it was.
    levels: the noise's share of the noisy latents' length, in (0, 1); the nearest steps of the pipeline's schedule are taken,
        with one evaluation of the denoiser for each. Low levels judge textures, high ones the composition.
    seed: decides the noise. `loss.at(step)` draws other noise for each step, so that an optimiser cannot adapt to one; the loss
        itself uses that of step 0. Every image of a batch gets the same noise.
    call: the other arguments of the pipeline's call: `prompt`, `num_inference_steps` (of which the levels are chosen), ...
        A `guidance_scale` of 1 measures the model itself.

    Raises ValueError for levels outside (0, 1), and what `Noise` raises.
    """

    name = "denoising error"

    def __init__(self, pipe: Any, levels: Sequence[float] = (0.3, 0.6), seed: int = 0, **call: Any) -> None:
        super().__init__()
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels must be one or more numbers between 0 and 1, got {tuple(levels)}.")
        self.step: int | float = 0
        self.seed = seed
        self.denoise = SingleStep(RepeatedCall(pipe, call, seed))
        steps = [level.relative for level in self.denoise.levels]
        self.steps = tuple(min(range(len(steps)), key=lambda i: abs(steps[i] - level)) for level in levels)
        """The steps of the pipeline's schedule that are evaluated."""

    def at(self, step: int | float) -> Loss:
        loss = self.__class__.__new__(self.__class__)
        loss.__dict__.update(self.__dict__)
        loss.step = step
        return loss

    def forward(self, images: Image) -> Distance:
        call = self.denoise.call
        like = call.like[:1].expand(len(images), *call.like.shape[1:])
        x0 = checkpoint(encode, call.decoder, images, like, use_reentrant=False)
        generator = numbered_generator(self.seed, self.step)
        errors = []
        for index in self.steps:
            level = self.denoise.levels[index]
            noise = torch.randn(1, *x0.shape[1:], generator=generator).to(x0).expand_as(x0)
            estimate = self.denoise(x0, noise, index)
            errors.append((level.a / level.s) ** 2 * (estimate - x0).square().flatten(1).mean(1))
        return torch.stack(errors).mean(0).to(images)
