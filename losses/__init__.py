"""Losses: from images in [0, 1] to one value per image. They can be added, scaled and scheduled, and keep their terms.

    loss = metric.target(image) + 0.1 * L1(image) + Cosine(0.02, 0.0, steps=400) * TotalVariation()

A loss that compares two images has two forms: `L1(image)` is a function of images, their distance from that image;
`L1()` is a function of `(pred, target)`, the distance of each pair, for training.
"""

if __name__ != "dreamsim_guidance.losses":
    raise ImportError("This folder is the package dreamsim_guidance.losses: import it by that name.")

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.augmented import Augmented, augmentation
from dreamsim_guidance.losses.balance import GradientBalance
from dreamsim_guidance.losses.crops import FULL, MultiCrop, grid
from dreamsim_guidance.losses.denoising import DenoisingError
from dreamsim_guidance.losses.dists import DISTS
from dreamsim_guidance.losses.dreamsim_loss import DreamSimLoss
from dreamsim_guidance.losses.feature_cosine import CLIPCosine, DINOCosine
from dreamsim_guidance.losses.gated import Gated, NoiseGate
from dreamsim_guidance.losses.lpips import LPIPS
from dreamsim_guidance.losses.pixel import L1, L2, MSE, Charbonnier, TotalVariation
from dreamsim_guidance.losses.ssim import SSIM
from dreamsim_guidance.schedule import Constant, Cosine, Linear, Piecewise, Schedule

__all__ = [
    "DISTS",
    "FULL",
    "L1",
    "L2",
    "LPIPS",
    "MSE",
    "SSIM",
    "Augmented",
    "CLIPCosine",
    "Charbonnier",
    "Constant",
    "Cosine",
    "DINOCosine",
    "DenoisingError",
    "DreamSimLoss",
    "Gated",
    "GradientBalance",
    "Linear",
    "Loss",
    "MultiCrop",
    "NoiseGate",
    "PairLoss",
    "Piecewise",
    "Schedule",
    "TotalVariation",
    "augmentation",
    "grid",
]
