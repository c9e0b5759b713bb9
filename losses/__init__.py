"""Losses: from images in [0, 1] to one value per image. They add, scale, keep their terms, and follow schedules.

    loss = metric.target(image) + 0.1 * L1(image) + Cosine(0.02, 0.0, steps=400) * TotalVariation()

Those that compare two images come in two forms: `L1(image)` goes from images to their distance from that image, `L1()`
from `(pred, target)` to the distance of each pair, for training.
"""

if __name__ != "dreamsim_guidance.losses":
    raise ImportError("This folder is the package dreamsim_guidance.losses: import it by that name.")

from dreamsim_guidance.loss import Loss, PairLoss
from dreamsim_guidance.losses.augmented import Augmented, augmentation
from dreamsim_guidance.losses.crops import FULL, MultiCrop, grid
from dreamsim_guidance.losses.dists import DISTS
from dreamsim_guidance.losses.dreamsim_loss import DreamSimLoss
from dreamsim_guidance.losses.feature_cosine import CLIPCosine, DINOCosine
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
    "DreamSimLoss",
    "Linear",
    "Loss",
    "MultiCrop",
    "PairLoss",
    "Piecewise",
    "Schedule",
    "TotalVariation",
    "augmentation",
    "grid",
]
