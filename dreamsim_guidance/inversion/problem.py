"""What is minimised: a loss of the images that leaves are rendered to, one value per row, whatever the rows are.

Rows are all that is optimised side by side: `restarts * batch` of them, with the samples of one restart beside each other.
A loss may hold one reference for each sample, so it sees the rows of one restart at a time. Leaves are optimised in units
of their prior,

    leaf = centre + scale * u,

so that one step size fits leaves of every kind and magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.loss.terms import check_values

__all__ = ["Leaves", "Problem", "Units", "named"]

Leaves = dict[str, Tensor]
"""The tensors that are optimised, by name."""


def named(value: Tensor | Mapping[str, Tensor]) -> Leaves:
    """Leaves by name; a tensor alone is called "leaf"."""
    return {"leaf": value} if isinstance(value, Tensor) else dict(value)


@dataclass(frozen=True)
class Units:
    """Centre and scale of each leaf's prior, of all samples or one for each; a leaf without them is optimised as it is."""

    centre: Mapping[str, Tensor] = field(default_factory=dict)
    scale: Mapping[str, Tensor] = field(default_factory=dict)

    def leaves(self, units: Leaves) -> Leaves:
        """Leaves from their values in units of the prior."""
        leaves = {name: u * _per_row(self.scale[name], u) if name in self.scale else u for name, u in units.items()}
        return {
            name: leaf + _per_row(self.centre[name], leaf) if name in self.centre else leaf
            for name, leaf in leaves.items()
        }

    def units(self, leaves: Leaves) -> Leaves:
        """The inverse of `leaves`."""
        units = {
            name: leaf - _per_row(self.centre[name], leaf) if name in self.centre else leaf
            for name, leaf in leaves.items()
        }
        return {name: u / _per_row(self.scale[name], u) if name in self.scale else u for name, u in units.items()}


def _per_row(prior: Tensor, rows: Tensor) -> Tensor:
    """A prior with a value for each sample, repeated for all restarts; any other as it is."""
    if prior.ndim < rows.ndim or len(prior) in (1, len(rows)):
        return prior
    return prior.repeat(len(rows) // len(prior), *(1,) * (prior.ndim - 1))


@dataclass(frozen=True)
class Problem:
    """A loss, the function that renders leaves to images in [0, 1], and what else the leaves must satisfy."""

    loss: Loss
    render: Callable[[Leaves], Tensor]
    batch: int
    units: Units = field(default_factory=Units)
    penalty: Callable[[Leaves, int], Tensor] | None = None
    """Of the leaves, at a step."""
    project_: Callable[[Leaves], object] | None = None
    paired: bool = False
    """Whether candidate k * batch + i belongs to sample i; otherwise each candidate is one of every sample."""

    def values(self, images: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of every row, `(rows,)`, and its terms, detached. With one sample, all rows are one batch of the loss."""
        loss = self.loss.at(step)
        groups = [images] if self.batch == 1 else images.split(self.batch)
        totals, terms = zip(*(loss.value_and_terms(group) for group in groups), strict=True)
        return torch.cat(totals), {name: torch.cat([group[name] for group in terms]) for name in terms[0]}

    def evaluate(self, leaves: Leaves, step: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The images of leaves, their total `(rows,)`, and its terms, detached, with the penalty as one of them."""
        images = self.render(leaves)
        total, terms = self.values(images, step)
        if self.penalty is None:
            return images, total, terms
        penalty = check_values(self.penalty(leaves, step), images, "penalty")
        return images, total + penalty, {**terms, "penalty": penalty.detach()}

    @torch.no_grad()
    def scores(self, leaves: Leaves, chunk: int) -> Tensor:
        """The total of every candidate for its samples, `(candidates, batch)`; each candidate is rendered once."""
        rows: list[Tensor] = []
        chunk = math.ceil(chunk / self.batch) * self.batch if self.paired else chunk
        for first in range(0, len(next(iter(leaves.values()))), chunk):
            part = {name: leaf[first : first + chunk] for name, leaf in leaves.items()}
            images = self.render(part)
            repeated = images if self.paired else images.repeat_interleave(self.batch, 0)
            scores = self.values(repeated, 0)[0].view(-1, self.batch)
            if self.penalty is not None:
                penalty = check_values(self.penalty(part, 0), images, "penalty")
                scores = scores + (penalty.view(-1, self.batch) if self.paired else penalty[:, None])
            rows.append(scores)
        return torch.cat(rows)
