"""A class-conditional generator such as BigGAN: the code z, and the class as a point that moves between the classes.

Huh et al., Transforming and projecting images into class-conditional generative networks, ECCV 2020 (the class vector is
optimised with z, from a searched start); Brock et al., Large scale GAN training for high fidelity natural image synthesis,
ICLR 2019 (the truncated prior).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ClassConditional"]


class ClassConditional:
    """A function `G(z, y)` of a code `(n, z_dim)` and a class vector `(n, d)` as a generator of `invert`.

    G: returns images `(n, 3, h, w)`. A module should be in evaluation mode; its weights get no gradient.
    z_dim: width of z.
    classes: the number of classes, whose vectors are one-hot; or a table `(classes, d)` of their embeddings, which G takes
        in place of one-hot vectors.
    c: the class, or the classes among which the search chooses, from 0; by default all.
    optimise_class: whether y is a leaf, "y", which starts at a class; otherwise the class stays, and c must be one class.
    truncation: z is drawn from, and after every step kept in, [-truncation, truncation], 2 by default.
    value_range: what black and white are in the images of G.

    The scale of z is 1, that of y the deviation of each number between the classes.
    Raises ValueError for classes out of range, more than one fixed class, and a truncation that is not positive.
    """

    def __init__(
        self,
        G: Callable[..., Tensor],
        z_dim: int,
        classes: int | Tensor,
        c: int | Sequence[int] | None = None,
        *,
        optimise_class: bool = True,
        truncation: float = 2.0,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        if not 0 < truncation < math.inf:
            raise ValueError(f"truncation must be a positive number, got {truncation}.")
        self.G, self.z_dim, self.truncation, self.value_range = G, z_dim, truncation, value_range
        table = torch.eye(classes) if isinstance(classes, int) else classes.detach()
        if isinstance(G, nn.Module) and (parameter := next(G.parameters(), None)) is not None:
            table = table.to(parameter)
        chosen = list(range(len(table))) if c is None else [c] if isinstance(c, int) else list(c)
        if not chosen or not 0 <= min(chosen) <= max(chosen) < len(table):
            raise ValueError(f"c must be classes from 0 to {len(table) - 1}, got {chosen}.")
        if not optimise_class and len(chosen) != 1:
            raise ValueError(f"a class that stays must be one class, c=207 for example, got {len(chosen)} of them.")
        self.vectors, self.optimise_class = table[chosen], optimise_class
        self.scale: dict[str, Any] = {"z": 1.0}
        if optimise_class:
            deviation = table.std(0) if len(table) > 1 else torch.ones_like(table[0])
            self.scale["y"] = deviation.clamp_min(1e-3 * float(deviation.mean()) or 1.0)

    def init(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n truncated normal codes, and a random one of the classes for each."""
        share = math.erf(self.truncation / 2**0.5)
        uniform = 2 * torch.rand(n, self.z_dim, generator=generator) - 1
        z = 2**0.5 * torch.erfinv(share * uniform)
        leaves = {"z": z.to(self.vectors)}
        if self.optimise_class:
            number = torch.randint(len(self.vectors), (n,), generator=generator)
            leaves["y"] = self.vectors[number.to(self.vectors.device)]
        return leaves

    def __call__(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, self.vectors.expand(len(z), -1) if y is None else y)

    def project_(self, leaves: dict[str, Tensor]) -> None:
        """Keep z within the truncation, in place."""
        leaves["z"].clamp_(-self.truncation, self.truncation)
