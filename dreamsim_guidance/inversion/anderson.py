"""Fixed points y = y + r(y) by Anderson acceleration, for every sample of a batch on its own.

From the last iterates y_k and residuals r_k, with differences dy and dr of successive ones,

    y_next = y_k + r_k - (dy + dr) gamma,    gamma = argmin || r_k - dr gamma ||

Without history this is the plain iteration y_next = y_k + r_k.

Walker and Ni, Anderson Acceleration for Fixed-Point Iterations, SIAM Journal on Numerical Analysis 49(4), 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FixedPoint"]


class FixedPoint:
    """One fixed-point problem; its caller evaluates residuals.

    history: how many differences are mixed, at least 0 (the plain iteration); 5 by default.

    `best` is the iterate with the smallest relative residual of each sample, and `residual` its ||r|| / ||y||, `(b,)`, infinite
    as long as no residual was finite.
    """

    def __init__(self, history: int = 5) -> None:
        self.history = history
        self._iterates: list[Tensor] = []
        self._residuals: list[Tensor] = []

    def observe(self, y: Tensor, r: Tensor) -> Tensor:
        """The next iterate, given the residual r at y, both `(b, ...)`.

        A sample whose residual is not finite goes on from its best iterate.
        """
        relative = r.flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1).clamp_min(torch.finfo(y.dtype).tiny)
        relative = torch.where(relative.isfinite(), relative, torch.inf)
        if not self._iterates:
            self.best, self.residual = y, torch.full_like(relative, torch.inf)
        better = relative < self.residual
        self.best = torch.where(_each(better, y), y, self.best)
        self.residual = torch.where(better, relative, self.residual)
        finite = _each(relative.isfinite(), y)
        self._iterates = [*self._iterates, torch.where(finite, y, self.best)][-self.history - 1 :]
        self._residuals = [*self._residuals, torch.where(finite, r, 0)][-self.history - 1 :]
        return self._mixed()

    def _mixed(self) -> Tensor:
        y, r = self._iterates[-1], self._residuals[-1]
        if len(self._iterates) < 2:
            return y + r
        dy = torch.stack(self._iterates, dim=-1).diff(dim=-1).flatten(1, -2).double()
        dr = torch.stack(self._residuals, dim=-1).diff(dim=-1).flatten(1, -2).double()
        # columns of unit length, because residuals fall by orders of magnitude from one to the next
        lengths = dr.norm(dim=1, keepdim=True).clamp_min(torch.finfo(dr.dtype).tiny)
        dy, dr = dy / lengths, dr / lengths
        inverse = torch.linalg.pinv(dr.mT @ dr, rtol=1e-12, hermitian=True)
        gamma = inverse @ (dr.mT @ r.flatten(1).double()[:, :, None])
        return y + r - ((dy + dr) @ gamma).view_as(r).to(r.dtype)


def _each(values: Tensor, like: Tensor) -> Tensor:
    """Values `(b,)` in a shape that broadcasts with `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
