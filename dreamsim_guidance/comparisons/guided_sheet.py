"""A sheet of samples, unguided and guided to a reference from the same noise, with what guide and judges say of them.

    sheet.png           references, unguided, guided, with the guide's distance below each
    distances.json      per image and name: the guide's distance and the held-out judges', unguided and guided
    log.png             distance, gradient and move over the guided steps
    unguided/, guided/  every image, and its batch's log

A batch that was written is not sampled again when an interrupted run goes on. The work is `guided_sheet`'s; this file
imports nothing heavy, since the command line shows its fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dreamsim_guidance.experiment.registry import suggestion

__all__ = ["METHODS", "GuidedSheet"]

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "mpgd": "MPGD",
        "dps": "DPS",
        "lgd": "LGD",
        "freedom": "FreeDoM",
        "universal": "UniversalGuidance",
        "dsg": "DSG",
        "tfg": "TFG",
        "flowchef": "FlowChef",
        "mmps": "MMPS",
    }
)
"""Names of the methods, and of their classes in `dreamsim_guidance.guidance`."""


@dataclass(frozen=True)
class GuidedSheet:
    """Everything that was decided about a sheet of guided samples."""

    model: str = ""
    """pocket (ships with the package), sd15, sdxl, sdxl-turbo, sd35, flux, a pipeline's folder, or the Hub's owner/name."""
    reference: tuple[Path, ...] = ()
    """What the samples shall look like; without one the pocket models take a drawn scene, others scikit-image's cat."""
    prompt: str = ""
    """What the samples shall show; the pocket model that takes words is chosen if there are any."""
    negative_prompt: str = ""
    """What they shall not show."""
    method: str = "mpgd"
    """mpgd, dps, lgd, freedom, universal, dsg, tfg, flowchef, mmps."""
    strength: float | None = None
    """How much the reference counts; by default the method's own, and for mpgd on latents 0.03. 0 guides nothing."""
    option: tuple[str, ...] = ()
    """Further fields of the method, as cap=0.2 or recurrence=3."""
    n: int = 4
    """How many images, from the seeds seed, seed + 1, ..."""
    seed: int = 0
    metric: str | None = None
    """The DreamSim that guides: ensemble, dino_vitb16, ..., pocket, or a model file; by default pocket for the pocket
    models, else ensemble."""
    judges: tuple[str, ...] = ()
    """Metrics that judge beside RMS and SSIM and take no part: variants of DreamSim, lpips, dists."""
    reduction: Literal["mean", "min"] = "mean"
    """Of several references: like all of them, or like the nearest."""
    mask: Path | None = None
    """White where the reference counts, black where it does not."""
    init: Path | None = None
    """Start from this picture instead of noise (image to image)."""
    init_strength: float = 0.6
    """How much of the way from that picture to noise."""
    steps: int | None = None
    """Of the sampler; by default the model's usual number, as for size and cfg."""
    size: tuple[int, ...] = ()
    """Side of the square, or height and width."""
    cfg: float | None = None
    """Classifier-free guidance."""
    eta: float | None = None
    """Noise of DDIM: 0 is deterministic, and 1 what dsg takes by default."""
    scheduler: str | None = None
    """A class of diffusers to sample with, e.g. EulerAncestralDiscreteScheduler; models without a prompt take few,
    DDPMScheduler among them."""
    window: tuple[float, float] = (0.0, 1.0)
    """Shares of the run between which to guide."""
    every: int = 1
    """Guide each k-th step."""
    until: float | None = None
    """Stop guiding an image once its distance is at or below this."""
    views: int = 1
    """Augmented views for each gradient, against adversarial gain."""
    taesd: bool = False
    """Decode during guidance with the tiny autoencoder that was made for the model."""
    vae: str | None = None
    """The same with an AutoencoderTiny of another place: a folder, or the Hub's owner/name."""
    checkpointing: bool = False
    """Save memory for time."""
    offload: bool = False
    """Keep the parts of the model that rest in the CPU's memory."""
    batch: int | None = None
    """Images at once; by default what suits the model."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the model; by default float32 on the CPU, elsewhere what the model is published in."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
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
