"""Inversion of a sampler, method by method: an image's noise, its reconstruction with and without guidance, and its edits.

    trajectory.png      targets, the autoencoder's own round trip (the floor), and the images of every row
    residuals.png       the residual of each step, by method
    trajectory.json     all figures, for each image
    table.md            their means

Rows "guidance w" sample from the noise that was found at guidance 1. Edits sample with another prompt: on the pocket model one
factor of the scene changes, and an independent classifier reads whether the edited image shows the new value of that factor
and the old values of the others. The work is done in `trajectories_run.py`, so that recipes are listed without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Trajectories"]


@dataclass(frozen=True)
class Trajectories:
    """The settings of a comparison of inversion methods."""

    model: str = "pocket-latents"
    """As for `guide`; other models than the pocket one need images, and prompts that describe them."""
    images: tuple[Path, ...] = ()
    """Pictures to invert, for other models than the pocket one; by default a cat's photograph."""
    prompts: tuple[str, ...] = ()
    """What each picture shows."""
    edits: tuple[str, ...] = ()
    """What each edited picture should show."""
    n: int = 4
    """Number of held-out scenes, for the pocket model."""
    first: int = 0
    """Number of the first scene in the split of held-out scenes."""
    factor: str = "colour"
    """The factor of the scene that the edit changes (colour, shape or count), for the pocket model."""
    methods: tuple[str, ...] = ("ddim", "fixed-point", "anderson")
    """Methods of `invert_trajectory`; the last one's noise is sampled again with guidance and edited."""
    evaluations: int = 10
    """Evaluations of the denoiser for each step at most."""
    steps: int = 20
    """Steps of the sampler."""
    size: int | None = None
    """Side of the square to which pictures are resized, in pixels; by default the model's."""
    cfg: float = 4.0
    """Scale of classifier-free guidance of the rows that have it; 1 leaves these rows out."""
    null_text: bool = True
    """Whether null-text inversion is among the rows."""
    inner_steps: int = 10
    """Steps of Adam for each step of the sampler in null-text inversion."""
    lr: float = 1e-2
    """Step size of null-text inversion."""
    method: str = "mpgd"
    """The guidance method of the edit that is guided towards the image."""
    strength: float | None = None
    """Strength of that guidance; by default the method's own for the model."""
    metric: str | None = None
    """The DreamSim that guides and measures; by default pocket for the pocket model, else ensemble."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("n", "steps", "size", "inner_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not self.methods:
            raise ValueError("methods must name at least one method of inversion.")
        if not self.cfg >= 1:
            raise ValueError(f"cfg must be at least 1, got {self.cfg}.")
        if self.factor not in ("colour", "shape", "count"):
            raise ValueError(f"factor must be colour, shape or count, got '{self.factor}'.")
        for name in ("prompts", "edits"):
            if getattr(self, name) and len(getattr(self, name)) != max(1, len(self.images)):
                raise ValueError(f"{name} must hold one text for each image, got {len(getattr(self, name))}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write the sheet, the residuals, the table and the figures; return the rows."""
        from dreamsim_guidance.comparisons.trajectories_run import compare

        return compare(self, folder)
