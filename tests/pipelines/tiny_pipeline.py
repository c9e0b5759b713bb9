"""A tiny pipeline together with the arguments of its call, so that all families can be called in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SIZE = {"height": 32, "width": 32}


@dataclass
class TinyPipeline:
    """A pipeline of the real diffusers class and its inputs.

    `inputs(b)` gives the arguments for `b` prompts; they contain no random generator, so a call depends on its seed only.
    """

    family: str
    pipe: Any
    inputs: Callable[[int], dict[str, Any]]

    def call(self, seed: int | None = 0, steps: int = 4, batch: int = 1, **overrides: Any) -> Tensor:
        """The images of one run, `(b, 3, h, w)` in `[0, 1]` on the CPU, with their gradient if there is one.

        Frames of a video count as images. `overrides` replace or add arguments of the pipeline's call; with `seed=None` they
        have to contain the generator.
        """
        arguments = {key: self.cast(value) for key, value in self.inputs(batch).items()}
        if seed is not None:
            arguments["generator"] = torch.Generator().manual_seed(seed)
        arguments = {"num_inference_steps": steps, "output_type": "pt", **arguments, **overrides}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed or 0)  # some pipelines do not hand their generator to the scheduler
            return as_images(self.pipe(**arguments))

    def target(self, seed: int = 1, **options: Any) -> Tensor:
        """An image that the pipeline makes from another seed: a reference that guidance can approach."""
        return self.call(seed, **options).detach().clone()

    def loss(self, seed: int = 1, **options: Any) -> Callable[[Tensor], Tensor]:
        """The mean squared distance of each image to `target(seed)`."""
        return squared_distance(self.target(seed, **options))

    @property
    def denoiser(self) -> Any:
        unet = getattr(self.pipe, "unet", None)
        return unet if unet is not None else self.pipe.transformer

    def cast(self, value: Any) -> Any:
        """Embeddings in the denoiser's dtype and on its device, as text encoders give them; everything else as it is."""
        if isinstance(value, list):
            return [self.cast(item) for item in value]
        embedding = isinstance(value, Tensor) and value.is_floating_point() and value.ndim < 4
        return value.to(self.denoiser.device, self.denoiser.dtype) if embedding else value


def squared_distance(target: Tensor) -> Callable[[Tensor], Tensor]:
    """A loss: the mean squared distance of each image to `target`, whose images are repeated in turn for larger batches."""

    def distance(images: Tensor) -> Tensor:
        repeated = target.to(images).repeat(len(images) // len(target), 1, 1, 1)
        return (images - repeated).square().flatten(1).mean(1)

    return distance


def as_images(result: Any) -> Tensor:
    for name in ("images", "frames"):
        result = getattr(result, name, result)
    if not isinstance(result, Tensor):
        result = torch.as_tensor(result).movedim(-1, -3)  # arrays have their channels last
    return result.flatten(0, -4)


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(seed: int, batch: int, *shape: int) -> Tensor:
    """Random embeddings, `(batch, *shape)`."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, batch: int, channels: int = 3, size: int = 32) -> Tensor:
    """Smooth random pictures in `[0, 1]`, `(batch, channels, size, size)`."""
    coarse = torch.rand(batch, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
