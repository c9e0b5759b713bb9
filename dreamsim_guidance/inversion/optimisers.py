"""Adam, SGD and L-BFGS for rows that do not interact, so that a batch takes the steps that its rows take alone.

All change the rows in place after one evaluation, never read a number back from the device, can drop rows, and hold their
state as tensors for a checkpoint.

Kingma, Ba, Adam: a method for stochastic optimization, ICLR 2015.
Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013 (Nesterov's momentum).
Nocedal, Wright, Numerical Optimization, 2006, algorithms 3.1 (backtracking) and 7.4 (two loops).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.inversion.problem import Leaves

__all__ = ["LBFGS", "Elementwise", "adam", "clipped", "sgd"]


class Elementwise:
    """An optimiser of torch that treats every element by itself, over leaves whose first dimension is the row."""

    recovers = False
    """Whether a row goes on after a loss that is not finite."""

    def __init__(self, leaves: Leaves, optimiser: torch.optim.Optimizer) -> None:
        self.leaves, self.optimiser = leaves, optimiser

    def step(self, values: Tensor, gradients: Mapping[str, Tensor | None], rate: float) -> None:
        """Take one step of size `rate`; a leaf without a gradient stays."""
        for name, leaf in self.leaves.items():
            leaf.grad = gradients[name]
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, of the leaves too."""
        for leaf in self.leaves.values():
            leaf.grad = None
            leaf.data = leaf.data[rows]
            state = self.optimiser.state.get(leaf, {})
            for name in state.keys() & {"exp_avg", "exp_avg_sq", "momentum_buffer"}:
                state[name] = state[name][rows]

    def state(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state)


def adam(leaves: Leaves) -> Elementwise:
    return Elementwise(leaves, torch.optim.Adam(list(leaves.values()), lr=1.0))


def sgd(leaves: Leaves) -> Elementwise:
    """Gradient descent with Nesterov's momentum of 0.9."""
    return Elementwise(leaves, torch.optim.SGD(list(leaves.values()), lr=1.0, momentum=0.9, nesterov=True))


def clipped(gradients: Mapping[str, Tensor | None], norm: float) -> dict[str, Tensor | None]:
    """Gradients shortened to at most this length in each row, over all leaves together."""
    given = [gradient.flatten(1) for gradient in gradients.values() if gradient is not None]
    lengths = torch.cat(given, 1).norm(dim=1)
    factors = (norm / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_max(1.0)
    return {
        name: None if gradient is None else gradient * factors.view(-1, *(1,) * (gradient.ndim - 1))
        for name, gradient in gradients.items()
    }


class LBFGS:
    """L-BFGS with a backtracking line search, for all rows at once.

    Each evaluation is a trial: a row that decreased enough takes it and chooses its next direction; another goes back and
    tries a shorter step. Enough is Armijo's condition, or where rounding hides the decrease, a flatter slope at an equal value
    (Hager, Zhang, A new conjugate gradient method with guaranteed descent and an efficient line search, SIAM J. Optim. 2005).

    memory: how many pairs of differences a row remembers, 10.
    """

    recovers = True

    def __init__(self, leaves: Leaves, memory: int = 10) -> None:
        self.leaves = leaves
        x = self._flat(leaves)
        row = x.new_zeros(len(x))
        self.tensors = {
            "point": x.clone(),
            "value": torch.full_like(row, torch.inf),
            "gradient": torch.zeros_like(x),
            "direction": torch.zeros_like(x),
            "length": row.clone(),
            "slope": row.clone(),
            "scale": row.clone(),
            "s": x.new_zeros(memory, *x.shape),
            "y": x.new_zeros(memory, *x.shape),
            "rho": x.new_zeros(memory, len(x)),
        }

    def step(self, values: Tensor, gradients: Mapping[str, Tensor | None], rate: float) -> None:
        """Judge the trial whose values and gradients these are, and move the leaves to the next one.

        rate: length of a row's first step, and of the first after a reset.
        """
        t = self.tensors
        x, value = self._flat(self.leaves), values.detach().to(t["value"].dtype)
        g = self._flat({name: _or_zero(gradients[name], leaf) for name, leaf in self.leaves.items()})
        enough = value <= t["value"] + 1e-4 * t["length"] * t["slope"]
        # near a minimum rounding hides the decrease, but not the change of the slope along the line
        level = value <= t["value"] + 8 * torch.finfo(value.dtype).eps * t["value"].abs()
        flatter = (g * t["direction"]).sum(1).abs() <= 0.8 * t["slope"].abs()
        accepted = (enough | (level & flatter)) & value.isfinite() & g.isfinite().all(1)
        g = torch.where(accepted[:, None], g, t["gradient"])
        self._remember(accepted & t["value"].isfinite(), x - t["point"], g - t["gradient"])

        direction, length = self._direction(g, rate)
        shorter = self._shorter(value)
        lost = ~accepted & (shorter < 1e-7)  # nothing along this line: forget the curvature and start anew
        t["rho"] = t["rho"].masked_fill(lost, 0)
        steepest = self._steepest(g, rate)
        t["direction"] = torch.where(accepted[:, None], direction, t["direction"])
        t["direction"] = torch.where(lost[:, None], steepest, t["direction"])
        t["length"] = torch.where(accepted, length, torch.where(lost, torch.ones_like(shorter), shorter))
        t["point"] = torch.where(accepted[:, None], x, t["point"])
        t["value"] = torch.where(accepted, value, t["value"])
        t["gradient"] = g
        t["slope"] = (t["direction"] * g).sum(1)
        self._write(t["point"] + t["length"][:, None] * t["direction"])

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, of the leaves too."""
        for leaf in self.leaves.values():
            leaf.data = leaf.data[rows]
        for name, tensor in self.tensors.items():
            self.tensors[name] = tensor[:, rows] if name in ("s", "y", "rho") else tensor[rows]

    def state(self) -> dict[str, Any]:
        return dict(self.tensors)

    def restore(self, state: dict[str, Any]) -> None:
        self.tensors = {name: tensor.to(self.tensors["point"].device) for name, tensor in state.items()}

    def _remember(self, moved: Tensor, s: Tensor, y: Tensor) -> None:
        """Add a pair of differences to the rows that moved along positive curvature."""
        t, sy, yy = self.tensors, (s * y).sum(1), y.square().sum(1)
        curved = moved & (sy > 1e-12 * yy) & (yy > 0)
        for name, newest in (("s", s), ("y", y)):
            t[name] = torch.where(curved[:, None], torch.cat([t[name][1:], newest[None]]), t[name])
        rho = 1 / torch.where(curved, sy, torch.ones_like(sy))
        t["rho"] = torch.where(curved, torch.cat([t["rho"][1:], rho[None]]), t["rho"])
        t["scale"] = torch.where(curved, sy / torch.where(curved, yy, torch.ones_like(yy)), t["scale"])

    def _direction(self, g: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """The quasi-Newton direction of every row, or steepest descent where there is no curvature, and length 1."""
        t = self.tensors
        q, weights = g, []
        for s, y, rho in zip(*(reversed(t[name].unbind()) for name in ("s", "y", "rho")), strict=True):
            weights.append(rho * (s * q).sum(1))
            q = q - weights[-1][:, None] * y
        q = t["scale"][:, None] * q
        for s, y, rho in zip(*(t[name].unbind() for name in ("s", "y", "rho")), strict=True):
            q = q + (weights.pop() - rho * (y * q).sum(1))[:, None] * s
        useful = (t["rho"][-1] > 0) & ((q * g).sum(1) > 0)
        return torch.where(useful[:, None], -q, self._steepest(g, rate)), torch.ones_like(t["length"])

    @staticmethod
    def _steepest(g: Tensor, rate: float) -> Tensor:
        """Downhill by `rate` in root mean square."""
        return -rate * g / g.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(g.dtype).tiny)

    def _shorter(self, value: Tensor) -> Tensor:
        """The next length along the same line: the minimum of the parabola, between a tenth and a half of the last."""
        t = self.tensors
        curvature = 2 * (value - t["value"] - t["length"] * t["slope"])
        parabola = -t["slope"] * t["length"].square() / curvature
        bounded = torch.minimum(torch.maximum(parabola, 0.1 * t["length"]), 0.5 * t["length"])
        return torch.where(bounded.isfinite(), bounded, 0.5 * t["length"])

    def _write(self, x: Tensor) -> None:
        sizes = [leaf[0].numel() for leaf in self.leaves.values()]
        for leaf, part in zip(self.leaves.values(), x.split(sizes, 1), strict=True):
            leaf.data = part.reshape(leaf.shape).to(leaf.dtype)

    @staticmethod
    def _flat(leaves: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([leaf.detach().flatten(1) for leaf in leaves.values()], 1)


def _or_zero(gradient: Tensor | None, leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if gradient is None else gradient
