"""A sheet of guided samples beside unguided ones from the same noise, with the distances of the guide and of the judges.

    sheet.png           references, unguided and guided samples, with the guide's distance below each
    distances.json      for each image: the distances of the guide and of the held-out judges, unguided and guided
    log.png             distance, gradient and move over the guided steps
    unguided/, guided/  every image, and the log of its batch

A run that was interrupted does not sample finished batches again. The work is done in `sheet_run.py`; this file imports
nothing that takes long, since the command line shows its fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dreamsim_guidance.files.names import suggestion
from dreamsim_guidance.guidance.methods import METHODS

__all__ = ["GuidedSheet"]


@dataclass(frozen=True)
class GuidedSheet:
    """The settings of a sheet of guided samples."""

    model: str = ""
    """pocket (ships with the package), sd15, sdxl, sdxl-turbo, sd35, flux, a pipeline's folder, or the Hub's owner/name."""
    reference: tuple[Path, ...] = ()
    """Pictures that the samples should look like; by default a drawn scene for the pocket models, else a cat's photograph."""
    prompt: str = ""
    """What the samples should show; with a prompt, "pocket" is the pocket model that reads it."""
    negative_prompt: str = ""
    """What the samples should not show."""
    method: Annotated[str, tyro.conf.arg(help=f"{', '.join(METHODS)}, or package.module.Class of your own.")] = "mpgd"
    strength: float | None = None
    """How much the reference counts; by default the method's own for pixels or for latents. 0 guides nothing."""
    option: tuple[str, ...] = ()
    """Further fields of the method, such as cap=0.2 or recurrence=3."""
    n: int = 4
    """Number of images, from the seeds seed, seed + 1, ..."""
    seed: int = 0
    metric: str | None = None
    """The DreamSim that guides: ensemble, dino_vitb16, ..., pocket, or a model file (.safetensors); by default pocket for
    the pocket models, else ensemble."""
    judges: tuple[str, ...] = ()
    """Metrics that judge, beside RMS and SSIM, without guiding: variants of DreamSim, lpips, dists."""
    reduction: Literal["mean", "min"] = "mean"
    """With several references: mean is like all of them, min like the nearest one."""
    mask: Path | None = None
    """White where the reference counts, black where it does not."""
    init: Path | None = None
    """Picture to start from, instead of noise (image to image)."""
    init_strength: float = 0.6
    """How much of the way from that picture to noise, above 0 and up to 1."""
    steps: int | None = None
    """Steps of the sampler; by default the model's usual number. Size and cfg have such defaults too."""
    size: tuple[int, ...] = ()
    """Side of the square, or height and width, in pixels."""
    cfg: float | None = None
    """Scale of classifier-free guidance."""
    eta: float | None = None
    """Noise of DDIM: 0 is deterministic; by default 1 for methods that need noise (dsg), else the pipeline's own."""
    scheduler: str | None = None
    """A scheduler class of diffusers to sample with, e.g. EulerAncestralDiscreteScheduler; models without a prompt accept
    only a few, among them DDPMScheduler."""
    window: tuple[float, float] = (0.0, 1.0)
    """The part of the run in which to guide, as shares of the steps."""
    every: int = 1
    """Guide every k-th step."""
    until: float | None = None
    """Stop guiding an image once its distance is this or less."""
    views: int = 1
    """Number of augmented views for each gradient; more make adversarial gains less likely."""
    taesd: bool = False
    """Decode during guidance with the tiny autoencoder (TAESD) of the model."""
    vae: str | None = None
    """Decode during guidance with this AutoencoderTiny: a folder, or the Hub's owner/name."""
    checkpointing: bool = False
    """Use less memory and more time, by recomputing activations for the gradient."""
    offload: bool = False
    """Keep the parts of the model that do not run at the moment in the CPU's memory."""
    batch: int | None = None
    """Images that are sampled at once; by default what suits the model."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Type of the model's weights; by default float32 on the CPU, elsewhere the type that the model is published in."""

    def __post_init__(self) -> None:
        if self.method not in METHODS and "." not in self.method:
            hint = suggestion(self.method, METHODS)
            raise ValueError(f"unknown method '{self.method}'{hint}; known: {', '.join(METHODS)}.")
        for name in ("n", "steps", "every", "views", "batch", *("size" for _ in self.size)):
            values = self.size if name == "size" else (getattr(self, name),)
            if any(value is not None and value < 1 for value in values):
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if len(self.size) > 2:
            raise ValueError(f"size is one side or height and width, got {self.size}.")
        if not 0 <= self.window[0] <= self.window[1] <= 1:
            raise ValueError(f"window must be two shares of the run in order, such as 0 0.8, got {self.window}.")
        if not 0 < self.init_strength <= 1:
            raise ValueError(f"init_strength must lie in (0, 1], got {self.init_strength}.")
        for name in ("strength", "eta"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value}.")
        for name in ("until", "cfg"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the sheet, the distances, the log and the images; return the mean distances."""
        from dreamsim_guidance.comparisons.sheet_run import make

        return make(self, folder)
