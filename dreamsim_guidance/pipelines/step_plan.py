"""The position of a run in its plan of steps, some of which may be made several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["StepPlan"]


class StepPlan:
    """The timesteps of a run and the position in it.

    timesteps: one for each step, as the scheduler planned them.
    copies: how often each step is made; once each by default.
    """

    def __init__(self, timesteps: Sequence[float] | Tensor = (), copies: Sequence[int] = ()) -> None:
        listed = timesteps.tolist() if isinstance(timesteps, Tensor) else timesteps  # read from the device at once
        self.timesteps = [float(t) for t in listed]
        self.copies = list(copies) or [1] * len(self.timesteps)
        self.index = 0
        """The step that comes next."""
        self.repetition = 0
        """How often it has been made already."""

    @classmethod
    def repeated(cls, timesteps: Tensor, repeats: Callable[[int, int], int]) -> tuple[StepPlan, Tensor]:
        """A plan in which step i of n is made `repeats(i, n)` times, and its timesteps, repeated likewise."""
        plan = cls(timesteps, [repeats(i, len(timesteps)) for i in range(len(timesteps))])
        if not plan.repeats:
            return plan, timesteps
        return plan, timesteps.repeat_interleave(torch.tensor(plan.copies, device=timesteps.device))

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def repeats(self) -> bool:
        """Whether any step is made more than once."""
        return max(self.copies, default=1) > 1

    @property
    def done(self) -> bool:
        """Whether the last step has been made."""
        return self.index == len(self)

    @property
    def following(self) -> float | None:
        """The timestep after the current one, None at the last step."""
        return self.timesteps[self.index + 1] if self.index + 1 < len(self) else None

    def starting_at(self, timestep: float) -> StepPlan:
        """The rest of the plan from this timestep on, where image-to-image pipelines enter. Raises `ValueError` if absent."""
        first = self.timesteps.index(timestep)
        return StepPlan(self.timesteps[first:], self.copies[first:])

    def move_on(self) -> bool:
        """Count the current step; whether it is to be made again."""
        if self.repetition + 1 < self.copies[self.index]:
            self.repetition += 1
            return True
        self.index, self.repetition = self.index + 1, 0
        return False
