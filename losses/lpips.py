"""LPIPS: weighted squared differences of unit-normalised deep features.

    d(x, y) = sum_l mean_hw sum_c w_lc (x_lc / |x_l| - y_lc / |y_l|)^2

The networks and their trained weights w come from torchmetrics. Zhang, Isola, Efros, Shechtman, Wang, The unreasonable
effectiveness of deep features as a perceptual metric, CVPR 2018.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor, nn

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.extra import building, extra
from dreamsim_guidance.losses.feature_loss import FeatureLoss
from dreamsim_guidance.losses.pair import bind
from dreamsim_guidance.losses.shift_tolerant import installed_shift_tolerant, read_shift_tolerant
from dreamsim_guidance.types import Distance, Image

__all__ = ["LPIPS"]

Trunk = Literal["alex", "vgg", "squeeze", "shift-tolerant"] | os.PathLike[str]
_WEIGHTS = {"alex": "AlexNet_Weights", "vgg": "VGG16_Weights", "squeeze": "SqueezeNet1_1_Weights"}
_EPS = 1e-10


@overload
def LPIPS(reference: Image, *, network: Trunk | nn.Module = "alex") -> Loss: ...
@overload
def LPIPS(reference: None = None, *, network: Trunk | nn.Module = "alex") -> PairLoss: ...
def LPIPS(reference: Image | None = None, *, network: Trunk | nn.Module = "alex") -> Loss | PairLoss:
    """LPIPS, one value per image, 0 for equal images and larger for different ones.

    `LPIPS(image)` is a loss towards that image, whose features are computed once; `LPIPS()` is a loss on pairs. Images
    lie in [0, 1] (they are brought to the network's range inside) and have at least 32 x 32 pixels. No gradient flows to
    the target or the network.

    network: "alex" (the paper's choice for a metric), "vgg" (usual as a training loss), "squeeze", "shift-tolerant" (Ghildyal
        and Liu, ECCV 2022), or a module of the package lpips or torchmetrics with your own weights. The named ones need the
        extra `losses`; the first three download torchvision's classification weights on first use, while "shift-tolerant"
        works offline. A `Path` to its weights, or to the wheel of stlpips-pytorch 0.0.2, needs nothing installed.

    Raises ImportError without that extra, OSError where the weights cannot be downloaded or read, ValueError for a file
    with other weights.
    """
    if network == "shift-tolerant":
        network = installed_shift_tolerant()
    if isinstance(network, os.PathLike):
        return bind(_LPIPS(read_shift_tolerant(network)), reference)
    return bind(_LPIPS(_build(network) if isinstance(network, str) else network), reference)


class _LPIPS(FeatureLoss):
    name = "lpips"
    capturable = True
    smallest = 32

    def __init__(self, network: nn.Module) -> None:
        if not all(hasattr(network, part) for part in ("scaling_layer", "net", "lins")):
            raise TypeError(
                f"network must be 'alex', 'vgg', 'squeeze' or an LPIPS module of lpips or torchmetrics, "
                f"got {type(network).__name__}."
            )
        super().__init__(network)

    def features(self, images: Image) -> Sequence[Tensor]:
        network: Any = self.network
        return tuple(network.net(network.scaling_layer(2 * images.to(network.lins[0].model[-1].weight.dtype) - 1)))

    def distance(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Distance:
        network: Any = self.network
        total = a[0].new_zeros(())
        for lin, x, y in zip(network.lins, a, b, strict=True):
            total = total + lin((_unit(x) - _unit(y)).square()).mean((1, 2, 3))
        return total


def _unit(x: Tensor) -> Tensor:
    # the original adds its epsilon outside the root, which makes the gradient NaN where all features are 0 (flat areas)
    return x / (x.square().sum(1, keepdim=True) + _EPS).sqrt()


def _build(network: str) -> nn.Module:
    if network not in _WEIGHTS:
        raise ValueError(f"unknown LPIPS network '{network}'; known: alex, shift-tolerant, squeeze, vgg.")
    metrics = extra("torchmetrics.image.lpip", "LPIPS")
    import torchvision

    url = getattr(torchvision.models, _WEIGHTS[network]).DEFAULT.url
    with building(f"LPIPS('{network}')", url):
        return metrics.LearnedPerceptualImagePatchSimilarity(net_type=network).net
