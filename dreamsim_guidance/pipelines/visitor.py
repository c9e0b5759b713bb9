"""What an interception calls: the interface behind guided runs, rehearsals and whatever else works inside a sampler.

A `Visitor` belongs to an interception and answers questions about the plan of steps. At the first step of each call of the
pipeline its `begin` receives everything that is known about the call (`Sampling`) and returns the `Visit` that makes the
steps. Both base classes do nothing: they leave the pipeline's output as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dreamsim_guidance.pipelines.decoder import Geometry
from dreamsim_guidance.pipelines.step_call import StepCall

__all__ = ["Sampling", "Visit", "Visitor"]


@dataclass(frozen=True)
class Sampling:
    """One call of a pipeline, as known at its first step.

    steps: number of steps in the scheduler's plan, repetitions not counted.
    images_per_prompt: how many images in a row belong to one prompt.
    own_callback: whether the pipeline was called with a callback of the user's, which may change its latents.
    bar: the pipeline's progress bar, if it has one.
    """

    steps: int
    geometry: Geometry = field(default_factory=Geometry)
    images_per_prompt: int = 1
    own_callback: bool = False
    bar: Any = None


class Visit:
    """One call of a pipeline, from its first step to its decoded images."""

    def step(self, call: StepCall, index: int) -> Tensor:
        """Make step `index` (0 to steps - 1) and return the next state; `call.advance()` is the scheduler's own step."""
        return call.advance()[0]

    def images(self, decoded: Tensor, images: Tensor, results: list[Tensor], offset: int) -> None:
        """The pipeline has decoded its result.

        decoded: what went into the autoencoder. images: what came out, scaled to [0, 1].
        results: the tensors that the last step returned. offset: index of the first decoded sample in the batch, for
        pipelines that decode the batch in parts.
        """


class Visitor:
    """Answers what the plan of steps depends on, and starts a `Visit` for each call of the pipeline."""

    def wants_graph(self, index: int, total: int) -> bool:
        """Whether step `index` of `total` needs the denoiser's graph. Asked for step 0 before `begin`."""
        return False

    def repeats(self, index: int, total: int) -> int:
        """How often step `index` of `total` is made, at least 1. Asked for all steps before `begin`."""
        return 1

    def begin(self, sampling: Sampling) -> Visit:
        """Start a call of the pipeline; called at its first step."""
        return Visit()
