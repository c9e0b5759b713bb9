"""Which loss an autoencoder is trained with: squared error alone, and with SSIM, LPIPS or DreamSim beside it.

    loss = 8 (MSE + w P) + w_kl KL,      P: the perceptual term, w: its weight

Every loss trains the autoencoder of the pocket latent model from the same random weights, on the same batches, for the same
number of steps. A larger w buys perceptual similarity with squared error, so each term is trained with several weights: what
is compared are curves of held-out distance against PSNR, not points. The factor 8 is that of the loss of the model that ships
(`training.pocket.autoencoder`), whose own terms are a further row.

DreamSim is the pocket ensemble without its last branch, which judges. No other judge takes part in any loss but its own.

This module holds the settings and imports no torch, so that recipes are listed and shown at once; the work is in
`loss_ablation_run.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.training.pocket.settings import Autoencoder

__all__ = ["AblateAutoencoderLoss"]


@dataclass(frozen=True)
class AblateAutoencoderLoss:
    """The settings of the comparison."""

    autoencoder: Autoencoder
    """Sizes, steps and batches of every training; `edges` is used by the shipped model's loss alone."""
    size: int = 64
    """Width and height of the images in pixels."""
    scenes: int = 4000
    """Number of scenes of the split "train"."""
    held_out: int = 300
    """Number of scenes of the split "test" on which all are judged."""
    ssim: tuple[float, ...] = (0.01, 0.04)
    """Weights w of 1 - SSIM."""
    lpips: tuple[float, ...] = (0.01, 0.05)
    """Weights w of LPIPS; only with `lpips_weights`."""
    dreamsim: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Weights w of DreamSim."""
    balanced: tuple[float, ...] = ()
    """Shares of DreamSim's gradient at the last layer, as multiples of the squared error's (`losses.GradientBalance`)."""
    lpips_weights: Path | None = None
    """Weights of shift-tolerant LPIPS, alex_shift_tolerant.pth or the wheel of stlpips-pytorch 0.0.2; without them LPIPS
    neither trains nor judges."""
    seeds: tuple[int, ...] = (0, 1)
    """Each loss is trained once for each seed, of weights and batches."""

    def __post_init__(self) -> None:
        if min(self.size, self.scenes, self.held_out) < 1 or not self.seeds:
            raise ValueError("size, scenes and held_out must be at least 1, and at least one seed is needed.")
        for name in ("ssim", "lpips", "dreamsim", "balanced"):
            if any(not weight > 0 for weight in getattr(self, name)):
                raise ValueError(f"the weights of {name} must be positive, got {getattr(self, name)}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Train and judge what `folder` does not hold yet; write table.md, curve.png and sheet.png; return the rows.

        An interrupted training goes on from its last checkpoint.
        """
        from dreamsim_guidance.training.pocket.loss_ablation_run import ablate

        return ablate(self, folder)
