"""Losses that ask a network and never train it.

A perceptual loss that is part of a trained model is a nuisance: its weights end in the model's checkpoint and in the
optimiser, `model.requires_grad_(True)` and `model.train()` reach them, and data-parallel wrappers synchronise them.
Here the network is frozen, in evaluation mode, and not registered as a submodule: only `.to(...)` and its kin, such as
`.half()` and `.cuda()`, still reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dreamsim_guidance.loss import PairLoss

__all__ = ["FrozenPairLoss"]


class FrozenPairLoss(PairLoss):
    """A pair loss that holds `network`, frozen in place; it has no parameters and an empty state dict."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # inside a tuple, nn.Module does not see it
        self._network = (network.requires_grad_(False).eval(),)

    @property
    def network(self) -> nn.Module:
        """The frozen network."""
        return self._network[0]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
