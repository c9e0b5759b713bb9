"""A chosen first state for pipelines that prepare their initial latents in a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from dreamsim_guidance.pipelines.decoder import Decoder, Geometry

__all__ = ["FirstState"]


class FirstState:
    """Chooses the state with which a pipeline's loop starts. Subclasses define `first` and replace `prepare_latents`.

    pipe: a diffusers pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.geometry = Geometry()
        """Size and layout of the latents, from `first` on."""
        self.noise_scale = 1.0
        """By what the pipeline multiplies the `latents` that it is given."""

    def first(self, noise: Tensor) -> Tensor:
        """The state from which the loop starts, by default the pipeline's own initial latents `noise`."""
        return noise

    def as_argument(self, state: Tensor) -> Tensor:
        """A state of the sampler's first step in the layout and scale in which the pipeline takes `latents`."""
        if hasattr(self.pipe, "_unpack_latents_with_ids"):  # FLUX.2 takes them on their grid
            state = Decoder(self.pipe, self.geometry).unpack(state)
        return state / self.noise_scale

    def _prepare_latents(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        arguments = inspect.signature(original).bind(*args, **kwargs).arguments
        result = original(*args, **kwargs)
        noise, *extras = result if isinstance(result, tuple) else (result,)
        self.geometry = Geometry.prepared(arguments, extras)
        again = original(**{**arguments, "latents": self.as_argument(noise)})
        scaled = again[0] if isinstance(again, tuple) else again
        self.noise_scale = float((scaled.double() * noise.double()).sum() / noise.double().square().sum())
        latents = self.first(noise)
        return (latents, *extras) if isinstance(result, tuple) else latents
