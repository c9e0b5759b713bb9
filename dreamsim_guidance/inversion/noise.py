"""Any pipeline of diffusers as a differentiable generator from its initial noise, for `invert`.

    image = decode(sampler(noise; prompt, steps, guidance))

The unmodified pipeline is called for every rendering, with autograd switched on inside it, and its clean latents are decoded
without the clamp that ends its own pictures, so that every pixel keeps its gradient. Calls of the networks are checkpointed.
Noise that an optimiser pushes away from the normal distribution gives pictures that the model would never make; the length of
the noise r is therefore held near that of a normal sample with d elements,

    penalty = norm (r^2 / 2 - (d - 1) log r) + constant,      0 at its minimum r^2 = d - 1,

and neighbouring elements can be kept uncorrelated, as in the projector of StyleGAN2.

Eyring et al., ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization, NeurIPS 2024 (the penalty
and `RENO`); Wallace et al., End-to-End Diffusion Latent Optimization Improves Classifier Guidance (DOODL), ICCV 2023
(`project`); Karras et al., Analyzing and Improving the Image Quality of StyleGAN, CVPR 2020 (`whiteness`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dreamsim_guidance.pipelines.differentiable import differentiable
from dreamsim_guidance.pipelines.frozen import without_gradients
from dreamsim_guidance.pipelines.noise import generator_states
from dreamsim_guidance.pipelines.repeated_call import RepeatedCall
from dreamsim_guidance.schedule import Constant

__all__ = ["RENO", "Noise", "correlation_penalty", "length_penalty"]

RENO: Mapping[str, Any] = {
    "optimiser": "sgd",
    "lr": Constant(5.0),
    "clip": 0.1,
    "steps": 50,
    "search": 1,
    "restarts": 1,
}
"""Settings of ReNO for one-step models, `invert(loss, Noise(pipe, ...), **RENO)`: descent with Nesterov's momentum from one
random noise. ReNO returns the image with the best reward, `invert` that with the best sum of loss and penalty."""


class Noise:
    """A pipeline's images as a function of its initial noise, `latents (n, ...) -> (n, 3, h, w)` in [0, 1] with overshoot.

    pipe: a diffusers pipeline with `latents=` that starts from noise: Stable Diffusion, SDXL, SD3, FLUX, Sana, Turbo, LCM and
        others. Its networks get no gradient, and it is left as it was, its scheduler included.
    norm: weight of the penalty on the length of the noise, 0.01 by default.
    whiteness: weight of the penalty on correlations of neighbouring elements, 0 by default; 1e5 in StyleGAN2.
    project: set the length of each noise to sqrt(d) after every step.
    seed: decides the noise that a stochastic sampler adds, the same for each sample and each call.
    checkpointing: recompute each call of a network in the backward pass (default); False keeps all activations in memory.
    decode: a function from the sampler's clean latents to images (b, 3, h, w) in [0, 1], in place of the pipeline's decoder.
    call: the other arguments of the pipeline's call: `prompt`, `num_inference_steps`, `guidance_scale`, ... Prompts are encoded
        once for each batch size. Several prompts make one image each, from rows of noise that belong to the prompts in turn.

    The leaf is standard normal, `centre` 0 and `scale` 1, of the shape that the pipeline prepares. `arguments(latents)` are the
    arguments with which the pipeline itself makes the images again.

    Raises ValueError for a pipeline without `latents=` or autoencoder, one that starts from an image, one whose latents are
    laid out in an unknown way, and arguments of the call that are chosen here; and when it is called, for a sampler that draws
    random numbers beside its `generator`, a pipeline that does not pass gradients on, and a part of the denoiser that has no
    backward, with its name. RuntimeError if the pipeline decodes its latents in another way than `Decoder`, see `decode`.
    """

    value_range = (0.0, 1.0)
    centre, scale = 0.0, 1.0
    lr = 0.1
    """Step size of Adam, in standard deviations of the noise."""

    def __init__(
        self,
        pipe: Any,
        *,
        norm: float = 0.01,
        whiteness: float = 0.0,
        project: bool = False,
        seed: int = 0,
        checkpointing: bool = True,
        decode: Callable[[Tensor], Tensor] | None = None,
        **call: Any,
    ) -> None:
        for name, weight in {"norm": norm, "whiteness": whiteness}.items():
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, got {weight}.")
        self.pipe, self.norm, self.whiteness, self.checkpointing = pipe, norm, whiteness, checkpointing
        self._call = RepeatedCall(pipe, call, seed, decode)
        self.decoder, self.prompts = self._call.decoder, self._call.prompts
        self.shape = tuple(self._call.like.shape[1:])
        self._checked = False
        if self.prompts > 1:
            self.batch = self.prompts
            """Number of samples of `invert`, whose rows are not interchangeable."""
        self.penalty = self._penalty if norm or whiteness else None
        self.project_ = _renormalise if project else None

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n standard normal noises, `(n, ...)` in float32 or wider."""
        like = self._call.like
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.randn(n, *self.shape, generator=generator, dtype=dtype).to(like.device)

    def init(self, n: int, generator: torch.Generator) -> Tensor:
        """n normal noises; with several prompts each of them for every prompt, `(n * prompts, ...)`."""
        return self.sample(n, generator).repeat_interleave(self.prompts, 0)

    def arguments(self, latents: Tensor) -> dict[str, Any]:
        """The arguments with which `pipe(**arguments)` makes the images of latents `(n, ...)`, one row per prompt."""
        return self._call.arguments(latents)

    def __call__(self, latents: Tensor) -> Tensor:
        if tuple(latents.shape[1:]) != self.shape or len(latents) % self.prompts:
            raise ValueError(
                f"the noise must have the shape (n, {', '.join(map(str, self.shape))}) with n a multiple of the number of "
                f"prompts, {self.prompts}, got {tuple(latents.shape)}."
            )
        if len(latents) > self.prompts and not (self.prompts == 1 and self._call.batches):
            return torch.cat([self(rows) for rows in latents.split(self.prompts)])
        x0 = self._sampled(latents)
        if not self._checked and self.decoder.decode is None:
            self._check_decoding(latents.detach(), x0.detach())
            self._checked = True
        if torch.is_grad_enabled() and latents.requires_grad:
            if not x0.requires_grad:
                raise ValueError(
                    f"{type(self.pipe).__name__} passes no gradient from its result to its latents: its call detaches them or "
                    "runs the denoiser without autograd."
                )
            if self.checkpointing:
                return checkpoint(self._decoded, x0, use_reentrant=False)
        return self._decoded(x0)

    def _decoded(self, x0: Tensor) -> Tensor:
        """Images with overshoot, which `invert` bounds."""
        with without_gradients(self.decoder.networks):
            return self.decoder(x0) if self.decoder.decode is not None else self.decoder.through_vae(x0)

    def _sampled(self, latents: Tensor) -> Tensor:
        """The sampler's clean latents."""
        device = self._call.like.device
        before = generator_states(None, device)
        with differentiable(self.pipe, self.checkpointing):
            x0 = self._call.run({**self.arguments(latents), "output_type": "latent"})
        if not self._checked and any(
            not torch.equal(a, b) for a, b in zip(before, generator_states(None, device), strict=True)
        ):
            raise ValueError(
                f"{type(self.pipe).__name__} with {type(self.pipe.scheduler).__name__} draws random numbers that its "
                "`generator` does not decide, so that the same noise gives different images; choose a deterministic scheduler."
            )
        return x0

    def _check_decoding(self, latents: Tensor, x0: Tensor) -> None:
        """Raise RuntimeError unless the pipeline decodes the same tensor as the decoder does; one more run."""
        decoded = 0

        def decode(original: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal decoded
            self.decoder.check(z, [x0], decoded)
            decoded += len(z)
            return original(z, *args, **kwargs)

        with differentiable(self.pipe):
            self._call.run({**self.arguments(latents), "output_type": "pt"}, (self.pipe.vae, "decode", decode))

    def _penalty(self, latents: Tensor) -> Tensor:
        """The penalty of each noise, `(n,)`; 0 at its most probable length and without correlations."""
        penalty = self.norm * length_penalty(latents)
        if self.whiteness:
            grid = latents if latents.ndim == 4 else self.decoder.unpack(latents)
            penalty = penalty + self.whiteness * correlation_penalty(grid)
        return penalty


def length_penalty(noise: Tensor) -> Tensor:
    """How improbable the length r of normal noise with d elements is, r^2 / 2 - (d - 1) log r above its minimum, `(n,)`."""
    freedom = max(noise[0].numel() - 1, 1)
    excess = noise.flatten(1).square().sum(1) / freedom - 1
    return 0.5 * freedom * (excess - torch.log1p(excess))


def correlation_penalty(noise: Tensor) -> Tensor:
    """Squared correlations of neighbours in noise `(n, c, h, w)`, mean over channels, summed over levels, `(n,)`.

    The noise is compared with itself shifted by one along each axis, at its own size and at every half of it down to 8.
    """
    total = noise.new_zeros(len(noise))
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean((2, 3)).square().mean(1)
        if min(noise.shape[-2:]) < 16:
            return total
        noise = 2 * F.avg_pool2d(noise, 2)  # of unit variance again


def _renormalise(leaves: Mapping[str, Tensor]) -> None:
    """Scale each noise to the length sqrt(d), in place."""
    for noise in leaves.values():
        norms = noise.flatten(1).norm(dim=1).view(-1, *(1,) * (noise.ndim - 1))
        noise.mul_(noise[0].numel() ** 0.5 / norms)
