"""Guide a small diffusion model of digits by a classifier, and judge the samples by a judge that took no part.

    guide       share of samples that the classifier reads as their class; the loss is its -log p(class | image)
    judge       share that nearest neighbours among the other half of the digits read as their class
    frechet     distance to the real digits of the class, mean over classes: do the samples look like handwriting?
    diversity   mean distance of two samples of a class

A classifier may accept pictures that show nothing (guide high, judge low), and a method may continue to push images that the
classifier accepts (judge high, diversity low, frechet high). There is one row for each method; pixels are in [-1, 1].
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.files.names import suggestion
from dreamsim_guidance.guidance.methods import METHODS

__all__ = ["DigitStrengths", "GuidedDigits"]

log = logging.getLogger(__name__)

MODIFIERS = ("ensemble", "noise")


@dataclass(frozen=True)
class DigitStrengths:
    """The strength of each method, in its own unit. For methods in nats per element, one nat of log-likelihood is 1/64."""

    mpgd: float = 1.0
    mpgd_raw: float = 0.03
    mpgd_rms: float = 0.02
    dps: float = 3.0
    lgd: float = 3.0
    mmps: float = 0.1
    freedom: float = 0.02
    universal: float = 0.5
    dsg: float = 0.1
    tfg: float = 0.5
    flowchef: float = 0.1


@dataclass(frozen=True)
class GuidedDigits:
    """The settings of the comparison."""

    methods: tuple[str, ...] = (
        "none",
        "mpgd",
        "mpgd+ensemble",
        "mpgd_raw",
        "mpgd_rms",
        "dps",
        "dps+ensemble",
        "dps+ensemble+noise",
        "lgd",
        "freedom",
        "universal",
        "dsg",
        "tfg",
        "flowchef",
    )
    """Rows: none, or a method, with its default strength where `strengths` has none; +ensemble guides by all classifiers,
    +noise averages over 4 noisy views."""
    strengths: DigitStrengths = DigitStrengths()
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """The sampler: diffusers' DDIMPipeline or DDPMPipeline, unmodified."""
    eta: float = 1.0
    """Share of noise in ddim's steps, 0 to 1."""
    steps: int = 100
    """Steps of sampling."""
    samples: int = 1000
    """Samples of each row, at least 20; the classes take turns."""
    training_steps: int = 8000
    """Steps of the denoiser's training."""
    width: int = 384
    """Width of the denoiser's layers."""
    guide_steps: int = 1500
    """Steps of each classifier's training."""
    classifiers: int = 3
    """Number of classifiers in the ensemble; rows without +ensemble are guided by the first."""
    seed: int = 0
    """Seed of the halves, of training and of sampling, which starts from the same noise in all rows."""

    def __post_init__(self) -> None:
        row_names = ("none", *dict.fromkeys((*METHODS, *(field.name for field in fields(DigitStrengths)))))
        if not self.methods:
            raise ValueError(f"methods must not be empty; known: {', '.join(row_names)}.")
        for row in self.methods:
            name, *modifiers = row.split("+")
            if name not in row_names:
                raise ValueError(
                    f"unknown method '{name}'{suggestion(name, row_names)}; known: {', '.join(row_names)}."
                )
            if unknown := [modifier for modifier in modifiers if modifier not in MODIFIERS]:
                raise ValueError(f"unknown modifier '+{unknown[0]}' of {name}; known: +{', +'.join(MODIFIERS)}.")
        for name in ("steps", "training_steps", "guide_steps", "classifiers", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.samples < 20:
            raise ValueError(f"samples must be at least 20, two for each class, got {self.samples}.")
        if not (0 <= self.eta <= 1 and math.isfinite(self.eta)):
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}.")
        if self.sampler == "ddim" and (self.steps > 1000 or 1000 % self.steps):
            raise ValueError(f"steps must divide 1000 for ddim, got {self.steps}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Train (once in a folder), sample each row, write rows/*, table.json, table.md and digits.png; return the rows."""
        from tqdm import tqdm

        from dreamsim_guidance.known_answers.digit_rows import Bench
        from dreamsim_guidance.known_answers.digit_table import draw, write_markdown

        bench = Bench(self, folder)
        rows = []
        for name in tqdm(self.methods, desc="rows"):
            file = folder / "rows" / f"{name}.json"
            if not file.is_file():
                write_json(file, bench.row(name))
            rows.append(json.loads(file.read_text(encoding="utf-8")))
            log.info("%(method)s: guide %(guide).3f, judge %(judge).3f, frechet %(frechet).2f", rows[-1])
        results = {"real": bench.real(), "rows": rows}
        write_json(folder / "table.json", results)
        write_markdown(folder / "table.md", results)
        draw(folder / "digits.png", results, folder / "rows")
        return results
