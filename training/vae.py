"""Fine-tuning an autoencoder of diffusers on a folder of images, with DreamSim beside the pixels.

    loss = l1 |y - x| + mse (y - x)^2 + w d(y, x) + kl KL,      y = decode(z),  z ~ q(z | x)

where x and y lie in [0, 1], d is DreamSim, and all terms are means. With `balanced`, w is a share: the perceptual gradient at
the decoder's last layer is w times as long as that of the pixels (`losses.GradientBalance`).

By default the decoder alone is trained, so that latents keep their meaning and diffusion models that were trained on them can
use the result at once, as with the decoders that Stability AI fine-tuned (stabilityai/sd-vae-ft-mse).

This module holds the settings and imports no torch, so that recipes are listed and shown at once; the work is in `vae_run.py`.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, appendix G (LPIPS in the place of d).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dreamsim_guidance.training.optimiser import Optimiser

__all__ = ["TrainVAE"]


@dataclass(frozen=True)
class TrainVAE:
    """The settings of a fine-tuning; `run` lists the files that it writes."""

    data: Path
    """A folder of pictures; those in folders inside it count too."""
    model: str = "stabilityai/sd-vae-ft-mse"
    """An AutoencoderKL: a folder in diffusers' format, or a name on the Hugging Face Hub."""
    subfolder: str | None = None
    """Folder of the autoencoder within `model`, such as "vae" for a whole pipeline."""
    metric: str = "ensemble"
    """The DreamSim that trains: ensemble, dino_vitb16, ... (published weights), pocket, or a model file (.safetensors)."""
    judge: str | None = None
    """Another DreamSim, which takes no part in training and judges the held-out pictures."""
    part: Literal["decoder", "all"] = "decoder"
    """What is trained: the decoder alone, or the encoder too, which changes the latents."""
    l1: float = 1.0
    """Weight of the absolute difference of pixels."""
    mse: float = 0.0
    """Weight of the squared difference of pixels."""
    dreamsim: float = 0.2
    """Weight w of DreamSim; 0 trains on pixels alone."""
    balanced: bool = False
    """Whether `dreamsim` is a share of the pixels' gradient at the decoder's last layer, instead of a weight."""
    kl: float = 1e-6
    """Weight of the divergence of the latents from a standard normal distribution, a mean over their elements."""
    size: int = 256
    """Width and height of the training crops in pixels, a multiple of what the autoencoder needs (8 for Stable Diffusion)."""
    smallest: float = 0.5
    """Smallest side of a crop as a share of the picture's shorter side, in (0, 1]."""
    held_out: int = 16
    """Number of pictures that are left out of training, chosen by `seed`, and judged."""
    optimiser: Optimiser = field(
        default_factory=lambda: Optimiser("adamw", 1e-5, (0.9, 0.999), schedule="cosine", warmup=100, clip=1.0)
    )
    steps: int = 5000
    batch: int = 8
    """Crops of a step, over all processes; a multiple of their number."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision; None takes that of an `accelerate.Accelerator` of this process, else that of `accelerate launch`."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, the same result."""
    average: float | None = None
    """Momentum, between 0 and 1, e.g. 0.999, of an average of the weights, which is judged and saved. None: no average."""
    validate_every: int = 500
    """Steps between two judgments of the held-out pictures."""
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between entries of the history."""
    workers: int = 4
    """Processes that read pictures; 0 reads them in the training process."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "held_out", "steps", "batch", "validate_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("l1", "mse", "dreamsim", "kl"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")
        if not self.l1 + self.mse > 0:
            raise ValueError("DreamSim alone does not determine colours and positions; give l1 or mse a weight.")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest must lie in (0, 1], got {self.smallest}.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is a momentum between 0 and 1, e.g. 0.999, got {self.average}.")
        if self.workers < 0 or self.seed < 0:
            raise ValueError(f"workers and seed must not be negative, got {self.workers} and {self.seed}.")
        if self.part not in ("decoder", "all"):
            raise ValueError(f"part must be decoder or all, got {self.part!r}.")
        for name in ("model", "metric", "judge"):
            value = getattr(self, name)
            if value is not None and Path(value).exists():  # the run can be resumed from anywhere
                object.__setattr__(self, name, str(Path(value).absolute()))

    @property
    def decisive(self) -> str:
        """The settings that decide the trained weights, as text."""
        logs = {"judge", "validate_every", "save_every", "log_every", "workers", "gradient_checkpointing"}
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if name not in logs)

    def run(self, folder: Path) -> dict[str, Any]:
        """Train, from the checkpoint in `folder` on, and write into it

        vae/               the autoencoder in diffusers' format: AutoencoderKL.from_pretrained(folder / "vae")
        preview.png        held-out pictures, their reconstructions at the start, and the latest ones
        curves.png         losses and judgments over the steps; the numbers are in history.json
        checkpoint.pt      for going on after an interruption

        Returns the judgments of the held-out pictures at the start and at the end: PSNR in dB, 1 - SSIM, the DreamSim
        distance, and that of `judge`.

        Raises ValueError for a folder with too few pictures, pictures that cannot be read, a batch that the processes cannot
        share, the checkpoint of another run, a loss that is not finite, and fp16 on a CPU.
        """
        from dreamsim_guidance.training.vae_run import train_vae  # here, so that recipes are listed without torch

        return train_vae(self, folder)
