"""Structural similarity, as a loss: 1 - mean SSIM.

    SSIM(x, y) = (2 mu_x mu_y + c1) (2 sigma_xy + c2) / ((mu_x^2 + mu_y^2 + c1) (sigma_x^2 + sigma_y^2 + c2))

with moments under an 11 x 11 Gaussian window of sigma 1.5, c1 = 0.01^2, c2 = 0.03^2, from kornia.

Wang, Bovik, Sheikh, Simoncelli, Image quality assessment: from error visibility to structural similarity,
IEEE TIP 2004.
"""

from __future__ import annotations

from typing import overload

from jaxtyping import Float
from torch import Tensor

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.pair import bind, common_pair
from dreamsim_guidance.types import Distance, Image

__all__ = ["SSIM"]


@overload
def SSIM(reference: Image, *, window: int = 11) -> Loss: ...
@overload
def SSIM(reference: None = None, *, window: int = 11) -> PairLoss: ...
def SSIM(reference: Image | None = None, *, window: int = 11) -> Loss | PairLoss:
    """1 - SSIM of images in [0, 1], one value per image in [0, 2], averaged over channels and windows inside the image.

    `SSIM(image)` is a loss towards that image, `SSIM()` is a loss on pairs.

    window: side of the window in pixels, odd and at least 3; images must not be smaller.
    """
    return bind(_SSIM(window), reference)


class _SSIM(PairLoss):
    name = "ssim"

    def __init__(self, window: int) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise ValueError(f"window must be odd and at least 3, got {window}.")
        self.window = window

    def forward(self, pred: Image, target: Float[Tensor, "#b 3 h w"]) -> Distance:
        from kornia.metrics import ssim

        x, y = common_pair(pred, target)
        if min(x.shape[-2:]) < self.window:
            raise ValueError(
                f"SSIM needs images of at least {self.window} x {self.window} pixels, got {x.shape[-2]} x {x.shape[-1]}"
                "; use a larger image or a smaller window."
            )
        # eps 0: kornia's denominator is positive by c1 c2, and its eps would make equal black images differ
        return 1 - ssim(x, y, self.window, eps=0.0, padding="valid").flatten(1).mean(1)
