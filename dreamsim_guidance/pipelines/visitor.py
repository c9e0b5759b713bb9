"""What stands behind an interception: a guided run, or the pipeline made differentiable."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from dreamsim_guidance.pipelines.step_call import StepCall

__all__ = ["Visitor"]


@runtime_checkable
class Visitor(Protocol):
    """What an interception tells and asks; `index` and `progress` say where in the plan of steps."""

    def wants_graph(self, index: int, progress: float) -> bool:
        """Whether the denoiser's graph is needed in this step."""

    def repeats(self, index: int, progress: float) -> int:
        """How often this step is made."""

    def begin(self, total: int) -> None:
        """A run of `total` steps begins."""

    def step(self, call: StepCall, index: int, progress: float) -> Tensor:
        """The next state of one step."""

    def images(self, decoded: Tensor, images: Tensor, results: list[Tensor], offset: int) -> None:
        """The pipeline has decoded, from `decoded`, images in [0, 1]; `results` are those of the last step."""
