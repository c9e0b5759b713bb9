"""Guide the pocket pixel model by one perceptual factor at a time: "the same colour, free shape".

Every row guides by another adapter of one metric, towards the same references and from the same noise. The row "people" guides
by the adapter that ships with the pocket metric, which weighs all factors as simulated people do. The table has, for each row,
how often an independent classifier finds the reference's value of a factor in the samples. A row that follows its factor has a
high value in that column and stays near the unguided samples in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dreamsim_guidance.guidance.methods import METHODS

__all__ = ["FactorGuidance"]


@dataclass(frozen=True)
class FactorGuidance:
    """The settings of a comparison of factors."""

    adapters: Path | None = None
    """Folder with one adapter for each factor, as train-factor-adapters writes it; by default those that ship."""
    factors: tuple[str, ...] = ("colour", "shape", "layout", "texture")
    """The adapters that guide."""
    columns: tuple[str, ...] = ("colour", "shape", "layout", "count", "background", "background_colour", "style")
    """The factors that are judged; the pocket model draws no textures."""
    method: Annotated[str, tyro.conf.arg(help=f"{', '.join(METHODS)}, or package.module.Class of your own.")] = (
        "freedom"
    )
    strength: float | None = None
    """How much the reference counts; by default the method's own."""
    references: int = 12
    """Held-out scenes."""
    n: int = 4
    """Images for each reference."""
    steps: int = 50
    first: int = 0
    """Number of the first reference in the split of held-out scenes."""
    seed: int = 0
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("references", "n", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("factors", "columns"):
            names = getattr(self, name)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{name} must be at least one, each once, got {names}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Sample what is missing in `folder`; write table.md, gains.md and factors.png; return the figures.

        table.md has the share of the samples that show the reference's factor, gains.md the difference from the unguided
        samples, both in percent with 95 % intervals by reference.
        """
        from dreamsim_guidance.comparisons.factor_guidance_run import (
            compare_factors,  # recipes are listed without torch
        )

        return compare_factors(self, folder)
