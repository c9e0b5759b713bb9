"""DreamSim between predicted and target images, for training generators and autoencoders.

    loss = DreamSimLoss("ensemble")
    loss(decode(encode(x)), x).mean().backward()

The loss may be an attribute of the trained model: it adds nothing to the model's parameters, checkpoint or optimiser.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import cast

import torch
from jaxtyping import Float

from dreamsim_guidance.loss import Loss
from dreamsim_guidance.losses.frozen_network import FrozenPairLoss
from dreamsim_guidance.metric.backbones import Branch, BranchConfig
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.types import Distance, Image, Mask

__all__ = ["DreamSimLoss"]


class DreamSimLoss(FrozenPairLoss):
    """Perceptual distance of each pair, `(b,)`, in [0, 2]; images are RGB in [0, 1] and may have any size.

    metric: a `DreamSim`, which is frozen, or anything that builds one: a name, a file, an `Ensemble`, a list of branches.
    device: where the metric is moved, by default nowhere.

    The gradient flows to `pred` only; the target is embedded without a graph. `against(reference)` is `metric.target`.
    The distance is computed in float32 even under autocast, and its gradient is finite (zero) for equal images.
    """

    name = "dreamsim"
    capturable = True

    def __init__(
        self,
        metric: DreamSim | str | os.PathLike[str] | Ensemble | Sequence[Branch | BranchConfig] = "ensemble",
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(metric if isinstance(metric, DreamSim) else DreamSim(metric))
        self.metric.to(device=device)

    @property
    def metric(self) -> DreamSim:
        """The frozen metric."""
        return cast(DreamSim, self.network)

    def forward(self, pred: Image, target: Float[torch.Tensor, "#b 3 h2 w2"], mask: Mask | None = None) -> Distance:
        # cuts the gradient path to the target, so that its activations are not stored for the backward pass
        target = target.detach()
        self.metric.check(pred, "pred", overshoot=True)
        self.metric.check(target, "target")
        if len(target) not in (1, len(pred)):
            raise ValueError(
                f"target must have the batch of pred or one image, got {len(target)} targets for {len(pred)} images."
            )
        return self.metric.compare(pred, target, mask)

    @property
    def capture_key(self) -> Hashable:
        return self.metric.adapter_state, self.metric.resize, self.metric.normalize_embeds

    def against(self, reference: Image) -> Loss:
        return self.metric.target(reference)
