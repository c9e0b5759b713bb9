"""The interface of guidance methods: a strength, and a function from one step to the next state.

A method of your own is a subclass with one function. It works wherever the methods of this package do:

    class Nudge(Method):
        def __call__(self, step: Step) -> Tensor:
            d = -self.strength * step.level.relative * step.gradient()
            return step.with_noise_kept(d)

    guide(pipe, loss, Nudge(0.01))

`step` (see `Step`) holds the noisy state `x_t`, the clean estimate `x0` and the noise level. `step.gradient()` is the gradient
of the loss in the clean estimate, `step.pull_back(g)` leads a gradient through the denoiser, and `step.sample(...)` or one of
its forms makes the sampler's step, exactly once. Parameters are fields of a frozen dataclass:

    @dataclass(frozen=True)
    class Nudge(Method):
        strength: float = 0.01
        shift: float = -1.0

Everything else about a method is declared on its class: `through_denoiser`, `repeats`, `through_guider`, `needs_noise`,
`strength_is_energy`, `strength_on_latents`. A method of this package is further listed in the table of `guidance.methods`.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from dreamsim_guidance.guidance.step import Step

__all__ = ["Method"]

M = TypeVar("M", bound="Method")


@dataclass(frozen=True)
class Method:
    """A guidance method. Subclasses define `__call__` and are frozen dataclasses if they have fields of their own.

    strength: how much the loss counts, at least 0. Unless a method's docstring says otherwise, its unit is nats per unit of
        loss and per element of the clean estimate: the method aims at the density p(x0) exp(-strength * n * loss(x0)), n
        elements. A distance that is a mean over the image then needs the same strength at every size and in every family,
        since all families' clean estimates have about unit variance. 0 leaves the pipeline's output bit for bit as it was.

    Raises `TypeError` for a strength that is not a number, `ValueError` for one that is negative or not finite.
    """

    strength: int | float = 1.0

    through_guider: ClassVar[bool] = False
    """Whether the method also works where only the clean estimate can be moved, as in a guider of Modular Diffusers: it uses
    `with_state_kept`, or loses little where the state that it passes to `sample` is ignored."""
    needs_noise: ClassVar[bool] = False
    """Whether the method needs a sampler that adds noise in its steps."""
    strength_is_energy: ClassVar[bool] = True
    """Whether the strength is a factor on the loss, rather than the length of a move."""
    strength_on_latents: ClassVar[float | None] = None
    """A default strength for pipelines with an autoencoder, if it differs from the field's."""

    def __post_init__(self) -> None:
        self._check_numbers("strength")

    @property
    def through_denoiser(self) -> bool:
        """Whether the gradient passes through the denoiser, which costs a backward pass and its activations.

        A subclass for which it always does can say so in one line, `through_denoiser = True`.
        """
        return False

    def __call__(self, step: Step) -> Tensor:
        """Make one step of the sampler and return the next state."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step) -> next state")

    def repeats(self, progress: float) -> int:
        """How often the step at this share of the run, in [0, 1), is made (time travel); by default once."""
        return 1

    @property
    def recurrent(self) -> bool:
        """Whether any step of a run may be made more than once."""
        return any(self.repeats(i / 1000) > 1 for i in range(1000))

    def with_strength(self: M, strength: int | float) -> M:
        """The same method with another strength."""
        if strength == self.strength:
            return self
        try:
            return replace(self, strength=strength)
        except TypeError:  # a subclass with an __init__ of its own
            method = copy.copy(self)
            object.__setattr__(method, "strength", strength)
            return method

    def suited_to(self: M, pipe: Any) -> M:
        """The same method with the default strength of its class for this kind of pipeline, where the class has one."""
        if self.strength_on_latents is None or getattr(pipe, "vae", None) is None:
            return self
        return self.with_strength(self.strength_on_latents)

    def _check_numbers(self, *names: str) -> None:
        """Raise unless these fields are finite numbers of at least 0, or None where their type says so."""
        kinds = {field.name: str(field.type) for field in fields(self)}
        for name in names:
            value = getattr(self, name)
            if value is None and "None" in kinds[name]:
                continue
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"{type(self).__name__}: {name} must be a number, got {value!r}.")
            if not (math.isfinite(value) and float(value) >= 0):
                raise ValueError(f"{type(self).__name__}: {name} must be a finite number >= 0, got {value}.")

    def _check_counts(self, *names: str, least: int = 1) -> None:
        """Raise unless these fields are whole numbers of at least `least`."""
        self._check_numbers(*names)
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be a whole number of at least {least}, got {value}."
                )

    def _check(self, valid: bool, needed: str) -> None:
        if not valid:
            raise ValueError(f"{type(self).__name__} needs {needed}, got {self}.")
