"""From the clean estimate that a sampler works on to the image that a person would see.

Families pack, scale and shift their latents in different ways; all factors are read from the pipeline at run time. Whether
they were read correctly is checked at the end of each run against the tensor that the pipeline itself decodes.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamsim_guidance.pipelines.levels import wide
from dreamsim_guidance.tracing import values_unknown

__all__ = ["Decoder", "Geometry", "bounded"]


@dataclass
class Geometry:
    """The arguments and results of a pipeline's `prepare_latents` that its decoding depends on.

    height, width: of the images in pixels. extras: what was returned beside the latents (FLUX.2: positions of the tokens).
    """

    height: int | None = None
    width: int | None = None
    extras: tuple[Any, ...] = ()

    @classmethod
    def prepared(cls, arguments: Mapping[str, Any], extras: Sequence[Any]) -> Geometry:
        """From the arguments of `prepare_latents` by name, and what it returned beside the latents."""
        # where tokens have positions, they are returned last
        return cls(arguments.get("height"), arguments.get("width"), tuple(extras[-1:]))


class Decoder:
    """Maps clean estimates `(b, ...)` to images `(b, 3, h, w)` near [0, 1], not clamped, so that every pixel has a gradient.

    Images from an autoencoder are unchanged within [0, 1]; beyond, an overshoot u becomes u / (1 + 4 |u|), always below 0.25
    in size, so that a metric only sees what could be a picture, and the gradient is that of the bounded function. Pixels of a
    sampler that clips its estimates are clipped likewise, while their gradient passes the clipping. Other pixels stay as they
    are. An infinite overshoot or pixel has its bound for a value and a gradient of zero; nan stays nan.

    pipe: any pipeline with a `vae`, or one that samples pixels in [-1, 1].
    geometry: size and layout of the latents.
    vae: decodes instead of the pipeline's own: an AutoencoderTiny takes latents as the sampler scales them, any other
        autoencoder receives what the pipeline's would.
    decode: a function from clean estimates to images in [0, 1] that replaces all of this.
    `frames` is the number of images for each sample: frames of a video become images.
    Raises `ValueError` if the pipeline has neither autoencoder nor pixels, or packs its latents in an unknown way.
    """

    def __init__(
        self,
        pipe: Any,
        geometry: Geometry,
        vae: nn.Module | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.pipe, self.geometry, self.decode = pipe, geometry, decode
        self.own = getattr(pipe, "vae", None)
        self.pixels = decode is None and vae is None and self.own is None
        unknown = [name for name in ("movq", "vqvae", "vqgan") if getattr(pipe, name, None) is not None]
        if self.pixels and unknown:
            raise ValueError(
                f"{type(pipe).__name__} decodes with `{unknown[0]}`, whose latents are unknown here; pass decode=, a "
                "function from the sampler's clean estimate to images (b, 3, h, w) in [0, 1]."
            )
        self.vae = self.own if vae is None else vae
        self.tiny = vae is not None and "Tiny" in type(vae).__name__
        self._module = None if decode is not None or self.vae is None else _ready(self.vae, pipe)
        self.frames = 1
        self._factors: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    @property
    def network(self) -> nn.Module | None:
        """The network that decodes, if there is one."""
        return self._module

    @property
    def networks(self) -> list[nn.Module]:
        """The same in a list, empty if there is none."""
        return [] if self._module is None else [self._module]

    def __call__(self, x0: Tensor) -> Tensor:
        if self.decode is not None:
            images = self._checked(self.decode(x0), x0)
        elif self.pixels:
            images = x0 / 2 + 0.5
            if getattr(self.pipe.scheduler.config, "clip_sample", False):
                # the value is the clipped one, which the sampler goes on from; inf - inf has no value and no gradient
                images = images.detach().clamp(0, 1) + (images - images.detach()).nan_to_num()
        else:
            images = bounded(self.through_vae(x0))
        self.frames = max(1, len(images) // len(x0))
        return images

    def shown(self, images: Tensor) -> Tensor:
        """Images as the pipeline delivers them, clamped to [0, 1]; unchanged with a `decode` of the user's."""
        return images if self.decode is not None else images.clamp(0, 1)

    def through_vae(self, x0: Tensor) -> Tensor:
        """Images from the autoencoder, not bounded."""
        latents = self.unpack(x0) if self.tiny else self.vae_input(x0)
        module: Any = self._module
        parameter = next(module.parameters())
        # the class's function: an interception of the instance's `decode` waits for the pipeline's own last call
        decoded = type(module).decode(module, latents.to(parameter.device, parameter.dtype), return_dict=False)[0]
        if decoded.ndim == 5:
            decoded = rearrange(decoded, "b c f h w -> (b f) c h w")
        return wide(decoded.to(x0.device)) / 2 + 0.5

    def unpack(self, x0: Tensor) -> Tensor:
        """Latents on their grid, in the sampler's scale; frames of a video become the batch."""
        pipe = self.pipe
        if hasattr(pipe, "_unpack_latents_with_ids"):
            if not self.geometry.extras:
                raise ValueError(_missing(pipe, "the positions of its tokens, which `prepare_latents` returns"))
            grid = pipe._unpack_latents_with_ids(x0, self.geometry.extras[0])
            return grid if isinstance(grid, Tensor) else torch.stack(grid)
        if x0.ndim == 3:
            unpack = getattr(pipe, "_unpack_latents", None)
            names = list(inspect.signature(unpack).parameters) if unpack else []
            values = {
                "height": self.geometry.height,
                "width": self.geometry.width,
                "vae_scale_factor": getattr(pipe, "vae_scale_factor", None),
            }
            if unpack is None or not set(names[1:]) <= set(values) or None in values.values():
                raise ValueError(_missing(pipe, "`_unpack_latents(latents, height, width, vae_scale_factor)`"))
            return unpack(x0, *(values[name] for name in names[1:]))
        if x0.ndim == 5 and hasattr(pipe, "decode_latents"):  # AnimateDiff: an image autoencoder, frame by frame
            return rearrange(x0, "b c f h w -> (b f) c h w")
        return x0

    def vae_input(self, x0: Tensor) -> Tensor:
        """The input of the pipeline's autoencoder for this clean estimate."""
        latents = self.unpack(x0)
        vae: Any = self.vae if self.own is None else self.own
        normaliser = getattr(vae, "bn", None)
        if normaliser is not None and hasattr(self.pipe, "_unpatchify_latents"):  # FLUX.2
            deviation = (normaliser.running_var + vae.config.batch_norm_eps).sqrt()
            grid = (1, -1, 1, 1)
            latents = latents * _like(deviation, latents, grid) + _like(normaliser.running_mean, latents, grid)
            return self.pipe._unpatchify_latents(latents)
        config = vae.config
        mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        scaling, shift = getattr(config, "scaling_factor", None), getattr(config, "shift_factor", None)
        shape = (1, -1) + (1,) * (latents.ndim - 2)
        if mean is not None and deviation is not None:
            deviations, means = self._factor("deviation", deviation, latents), self._factor("mean", mean, latents)
            latents = latents * deviations.view(shape) / (scaling or 1.0) + means.view(shape)
        else:
            latents = latents / (scaling or 1.0)
        return latents if shift is None else latents + shift

    def _factor(self, name: str, values: Any, latents: Tensor) -> Tensor:
        """Numbers of the autoencoder's configuration on the latents' device, where they are copied once."""
        key = (name, latents.device, latents.dtype)
        if values_unknown() or key not in self._factors:
            factor = torch.as_tensor(values, device=latents.device, dtype=latents.dtype)
            if values_unknown():
                return factor
            self._factors[key] = factor
        return self._factors[key]

    def check(self, decoded: Tensor, candidates: list[Tensor], offset: int) -> None:
        """Compare with what the pipeline decodes.

        decoded: the input of the pipeline's autoencoder, from sample `offset` of the batch on.
        candidates: the tensors that the last step returned, one of which must agree, at least where no mask replaced it.
        Raises `RuntimeError` if less than 2 % of the elements agree.
        """
        if self.decode is not None or self.own is None:
            return
        best = 0.0
        for candidate in candidates:
            ours = self.vae_input(candidate.detach())[offset : offset + len(decoded)].to(decoded.device, decoded.dtype)
            if ours.shape == decoded.shape:
                # SDXL's latents are half until they are upcast for decoding
                precision = max(torch.finfo(dtype).eps for dtype in (candidate.dtype, decoded.dtype))
                tolerance = 8 * precision * (1 + decoded.abs())
                same = ((ours - decoded).abs() <= tolerance) | (ours == decoded) | (ours.isnan() & decoded.isnan())
                best = max(best, float(same.float().mean()))
        if best < 0.02:
            raise RuntimeError(
                f"the images of this run's clean estimates were not decoded as {type(self.pipe).__name__} decodes its own: its "
                "latents are scaled or packed in another way. Pass decode=, a function from the sampler's clean estimate to "
                "images (b, 3, h, w) in [0, 1]."
            )

    def _checked(self, images: Any, x0: Tensor) -> Tensor:
        """The result of the user's `decode`, checked."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not _one_for_each(images, x0):
            raise ValueError(
                f"decode must return images (b, 3, h, w), one for each clean estimate or the frames of a video, got "
                f"{tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__} of {tuple(x0.shape)}."
            )
        if torch.is_grad_enabled() and x0.requires_grad and not images.requires_grad:
            raise ValueError(
                "decode must be differentiable, and its images have no gradient; leave out detach() and no_grad."
            )
        return images


def _one_for_each(images: Tensor, x0: Tensor) -> bool:
    """Whether there is one image for each clean estimate, or one for each frame, which latents on a plane do not have."""
    return len(images) == len(x0) or (x0.ndim != 4 and len(images) > 0 and len(images) % len(x0) == 0)


def bounded(images: Tensor) -> Tensor:
    """Keep overshoots below 0.25: early estimates may decode to anything, infinity included."""
    inside = images.clamp(0, 1)
    overshoot = (images - inside).clamp(-1e30, 1e30)  # so that 4 |u| is a number in float32
    return inside + overshoot / (1 + 4 * overshoot.abs())


def _ready(vae: nn.Module, pipe: Any) -> nn.Module:
    """The module that decodes clean estimates; a copy in float32 without hooks where the pipeline's own cannot serve.

    Offloading would move the denoiser out at every decode, and some autoencoders overflow in half precision.
    """
    hooked = any(hasattr(module, "_hf_hook") for module in vae.modules())
    parameter = next(vae.parameters())
    overflows = parameter.dtype == torch.float16 and getattr(getattr(vae, "config", None), "force_upcast", False)
    if not (hooked or overflows):
        return vae
    from accelerate.hooks import remove_hook_from_module

    module = copy.deepcopy(vae)
    remove_hook_from_module(module, recurse=True)
    device = getattr(pipe, "_execution_device", None) or parameter.device
    return module.to(device=device, dtype=torch.float32 if overflows else parameter.dtype).requires_grad_(False)


def _like(values: Any, latents: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.as_tensor(values, device=latents.device, dtype=latents.dtype).view(shape)


def _missing(pipe: Any, what: str) -> str:
    return (
        f"{type(pipe).__name__} packs its latents, and {what} is missing; pass decode=, a function from the sampler's clean "
        "estimate to images (b, 3, h, w) in [0, 1]."
    )
