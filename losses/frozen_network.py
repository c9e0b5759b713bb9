"""Losses that use a network without training it.

If a perceptual loss is an ordinary submodule of a trained model, its weights end up in the model's checkpoint and in the
optimiser, `model.requires_grad_(True)` and `model.train()` change them, and data-parallel wrappers synchronise them.
Here the network is frozen, in evaluation mode, and not registered as a submodule. Only `.to(...)` and methods like it,
such as `.half()` and `.cuda()`, still reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dreamsim_guidance.loss import PairLoss

__all__ = ["FrozenPairLoss"]


class FrozenPairLoss(PairLoss):
    """A pair loss that holds `network` and freezes it; it has no parameters and an empty state dict itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # in a tuple, where nn.Module does not find it
        self._network = (network.requires_grad_(False).eval(),)

    @property
    def network(self) -> nn.Module:
        """The frozen network."""
        return self._network[0]

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The frozen network."""
        return self._network

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
