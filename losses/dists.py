"""DISTS: similarity of the means (texture) and of the covariances (structure) of deep features.

    d(x, y) = 1 - sum_lc (alpha_lc l(x_lc, y_lc) + beta_lc s(x_lc, y_lc))
    l = (2 mu_x mu_y + c) / (mu_x^2 + mu_y^2 + c),    s = (2 sigma_xy + c) / (sigma_x^2 + sigma_y^2 + c),   c = 1e-6

over the image and five layers of a VGG16 with smooth pooling. The network and its trained alpha, beta come from
torchmetrics.

Ding, Ma, Wang, Simoncelli, Image quality assessment: unifying structure and texture similarity, IEEE TPAMI 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from torch import Tensor, nn

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.extra import building, extra
from dreamsim_guidance.losses.feature_loss import FeatureLoss
from dreamsim_guidance.losses.pair import bind
from dreamsim_guidance.types import Distance, Image

__all__ = ["DISTS"]

_C = 1e-6


@overload
def DISTS(reference: Image, *, network: nn.Module | None = None) -> Loss: ...
@overload
def DISTS(reference: None = None, *, network: nn.Module | None = None) -> PairLoss: ...
def DISTS(reference: Image | None = None, *, network: nn.Module | None = None) -> Loss | PairLoss:
    """DISTS, one value per image, 0 for equal images and larger for different ones.

    `DISTS(image)` is a loss towards that image, whose features are computed once; `DISTS()` is a loss on pairs. Images
    lie in [0, 1] and have at least 32 x 32 pixels. The authors resize them so that the shorter side is 256; nothing is
    resized here. No gradient flows to the target or the network.

    network: a `DISTSNetwork` of torchmetrics with your own weights. By default the extra `losses` is needed, and
        torchvision's VGG16 weights (528 MB) are downloaded on first use.

    Raises ImportError without that extra, OSError where the weights cannot be downloaded.
    """
    return bind(_DISTS(_build() if network is None else network), reference)


class _DISTS(FeatureLoss):
    name = "dists"
    smallest = 32

    def __init__(self, network: nn.Module) -> None:
        if not all(hasattr(network, part) for part in ("forward_once", "alpha", "beta", "chns")):
            raise TypeError(f"network must be a DISTSNetwork of torchmetrics, got {type(network).__name__}.")
        super().__init__(network)

    def features(self, images: Image) -> Sequence[Tensor]:
        network: Any = self.network
        return network.forward_once(images.to(network.alpha.dtype))

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Distance:
        network: Any = self.network
        total = network.alpha.sum() + network.beta.sum()
        alphas = (network.alpha / total).split(network.chns, dim=1)
        betas = (network.beta / total).split(network.chns, dim=1)
        distance = a[0].new_zeros(())
        for alpha, beta, x, y in zip(alphas, betas, a, b, strict=True):
            mx, my = x.mean((2, 3), keepdim=True), y.mean((2, 3), keepdim=True)
            dx, dy = x - mx, y - my
            vx, vy = dx.square().mean((2, 3), keepdim=True), dy.square().mean((2, 3), keepdim=True)
            # 1 - l and 1 - s in closed form: never negative, exactly 0 for equal images; the reference subtracts from 1
            texture = (mx - my).square() / (mx.square() + my.square() + _C)
            structure = (dx - dy).square().mean((2, 3), keepdim=True) / (vx + vy + _C)
            distance = distance + (alpha * texture + beta * structure).sum((1, 2, 3))
        return distance


def _build() -> nn.Module:
    dists = extra("torchmetrics.functional.image.dists", "DISTS")
    from torchvision.models import VGG16_Weights

    with building("DISTS", VGG16_Weights.DEFAULT.url):
        return dists.DISTSNetwork()
