"""Sweep the strength of guidance: distance to the reference against fidelity to the prompt and diversity of the samples.

Prompt and reference contradict each other: one is the caption of a scene, the other the picture of another scene. Without
guidance the samples follow the prompt, and the stronger the guidance, the less they do. The columns are means over pairs:

    distance    the guide's distance to the reference
    fidelity    share of the caption's factors that an independent classifier finds; for other models than the pocket one,
                CLIP's cosine of prompt and sample
    diversity   distance of two samples of one pair, on features that take no part in the guidance

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["StrengthSweep"]


@dataclass(frozen=True)
class StrengthSweep:
    """The settings of a sweep."""

    model: str = "pocket-latents"
    """As for `guide`; other models than the pocket one need prompts, references, and the weights of `clip` and `feature`."""
    method: str = "mpgd"
    option: tuple[str, ...] = ()
    """Further fields of the method, as cap=0.2."""
    strengths: tuple[float, ...] = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    pairs: int = 8
    """Pairs of a caption and a reference; for the pocket model only."""
    n: int = 8
    """Images for each pair and strength."""
    prompts: tuple[str, ...] = ()
    references: tuple[Path, ...] = ()
    """One for each prompt, for other models."""
    metric: str | None = None
    """The DreamSim that guides; by default pocket for the pocket model, else ensemble."""
    clip: str = "ViT-B-32/laion2b_s34b_b79k"
    """The CLIP of open_clip that judges how well a sample fits its prompt, as name/weights; not for the pocket model."""
    feature: str = "dinov2_vitb14"
    """The DreamSim whose embedding measures diversity; not for the pocket model."""
    steps: int | None = None
    cfg: float | None = None
    size: int | None = None
    first: int = 0
    """Number of the first reference in the split of held-out scenes."""
    seed: int = 0
    batch: int | None = None
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("pairs", "n", "steps", "size", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not self.strengths or any(not 0 <= value < math.inf for value in self.strengths):
            raise ValueError(f"strengths must be numbers of at least 0, got {self.strengths}.")
        if len(set(self.strengths)) < len(self.strengths):
            raise ValueError(f"every strength once, got {self.strengths}.")
        if len(self.prompts) != len(self.references):
            raise ValueError(
                f"one reference for each prompt is needed, got {len(self.prompts)} and {len(self.references)}."
            )

    def run(self, folder: Path) -> dict[str, Any]:
        """Sample what is missing in `folder`; write table.md, sweep.png and samples.png; return the rows."""
        from dreamsim_guidance.comparisons.strength_sweep_run import (
            sweep,  # here, so that recipes are listed without torch
        )

        return sweep(self, folder)
