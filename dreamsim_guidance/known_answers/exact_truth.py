"""Compare guidance with the exact posterior: a table of errors for every method, sampler and number of steps.

    truth   p(x0) exp(-strength E(x0)) in closed form, where p is a Gaussian or a mixture, and E linear or quadratic
    error   of mean and covariance, and the Wasserstein distance, beside those of as many exact samples (the floor)

A method that uses the exact score of a case errs only by the sampler's finite steps: its error must fall to the floor as the
number of steps grows. The error that remains for other methods is their bias.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.files.names import suggestion
from dreamsim_guidance.guidance.methods import METHODS as GUIDANCE_METHODS
from dreamsim_guidance.guidance.methods import method_class

__all__ = ["CASES", "METHODS", "SAMPLERS", "STOCHASTIC", "Condition", "ExactTruth"]

CASES = (
    "gaussian-linear",
    "gaussian-quadratic",
    "isotropic-linear",
    "isotropic-quadratic",
    "mixture-linear",
    "mixture-quadratic",
)
"""Prior and energy. The isotropic prior has the unit matrix as its covariance."""

SAMPLERS = ("ddim", "ddim-eta1", "ddpm", "dpm++2m", "euler", "euler-ancestral", "unipc", "flow")
STOCHASTIC = ("ddim-eta1", "ddpm", "euler-ancestral")

METHODS = ("none", *GUIDANCE_METHODS, "mpgd-raw")
"""`none` samples the prior without guidance and is compared with the prior: the error of the sampler alone. dps, lgd and mmps
have no trust region here, since it would be a bias; mpgd has its own, mpgd-raw has none."""


@dataclass(frozen=True)
class Condition:
    """One row of the table: a case with a method of guidance, its strength, a sampler, and a number of steps."""

    case: str
    method: str
    sampler: str
    strength: float
    steps: int

    @property
    def exact(self) -> bool:
        """Whether the method uses the exact score of this case, so that only the sampler's finite steps cause errors."""
        prior, energy = self.case.split("-")
        if self.method == "none":
            return True
        if prior == "mixture":
            return False
        return {"dps": energy == "linear", "lgd": energy == "linear" or prior == "isotropic", "mmps": True}.get(
            self.method, False
        )

    @property
    def name(self) -> str:
        return f"{self.case} {self.method} {self.sampler} strength {self.strength:g} steps {self.steps}"


@dataclass(frozen=True)
class ExactTruth:
    """The settings of the comparison."""

    cases: tuple[str, ...] = (
        "gaussian-linear",
        "gaussian-quadratic",
        "isotropic-quadratic",
        "mixture-quadratic",
    )
    """Prior and energy: gaussian, isotropic or mixture, then -linear or -quadratic."""
    methods: tuple[str, ...] = METHODS
    """Guidance methods, and none for the sampler alone."""
    samplers: tuple[str, ...] = ("ddim-eta1", "dpm++2m")
    """Any of ddim, ddim-eta1, ddpm, dpm++2m, euler, euler-ancestral, unipc, flow."""
    steps: tuple[int, ...] = (20, 100)
    """Numbers of steps; for ddim and ddim-eta1 they must divide 1000, or diffusers' steps do not fit its timesteps."""
    strengths: tuple[float, ...] = (1.0,)
    """Factors on the energy of both truth and method. freedom and dsg, whose strengths are no energies, keep their own."""
    shape: tuple[int, int, int] = (3, 2, 2)
    """Channels, height and width of a state; the dimension is their product."""
    weights: tuple[float, ...] = (0.3, 0.7)
    """Weights of the mixture's components, relative to each other."""
    apart: float = 0.5
    """Standard deviation of the entries of the components' means."""
    correlation: float = 0.9
    """Variances along the random axes of the priors lie between 1 - correlation and 1 + correlation; isotropic ones are 1."""
    observed: tuple[int, ...] = (0, 1, 2)
    """Entries of the state that the quadratic energy observes."""
    sigma: float = 0.5
    """Standard deviation of the observation's noise."""
    tilt: float = 0.5
    """Standard deviation of the entries of the linear energy's gradient."""
    samples: int = 1000
    """Samples of each row. The floor falls with the root of their number."""
    draws: int = 24
    """Noisy copies over which lgd averages; a small number adds a bias."""
    seed: int = 0
    """Seed of prior, observation and sampling."""

    def __post_init__(self) -> None:
        for name, choices in (("cases", CASES), ("methods", METHODS), ("samplers", SAMPLERS)):
            chosen = getattr(self, name)
            for text in chosen:
                if text not in choices:
                    raise ValueError(
                        f"unknown {name[:-1]} '{text}'{suggestion(text, choices)}; known: {', '.join(choices)}."
                    )
            if not chosen:
                raise ValueError(f"{name} must not be empty; known: {', '.join(choices)}.")
        if not self.steps or min(self.steps) < 2 or max(self.steps) > 1000:
            raise ValueError(f"steps must be whole numbers of 2 to 1000, got {self.steps}.")
        uneven = (
            [n for n in self.steps if 1000 % n] if any(sampler.startswith("ddim") for sampler in self.samplers) else []
        )
        if uneven:
            raise ValueError(
                f"steps must divide 1000 for ddim, got {uneven[0]}; 20, 25, 40, 50, 100, 125, 200, 250, 500 do."
            )
        if not self.strengths or not all(0 < strength < math.inf for strength in self.strengths):
            raise ValueError(f"strengths must be numbers above 0, got {self.strengths}.")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape must be channels, height and width, got {self.shape}.")
        if not self.weights or min(self.weights) <= 0:
            raise ValueError(f"weights must be one or more numbers above 0, got {self.weights}.")
        dimension = math.prod(self.shape)
        distinct = len(set(self.observed)) == len(self.observed) > 0
        if not distinct or not 0 <= min(self.observed) <= max(self.observed) < dimension:
            raise ValueError(f"observed must be different entries of 0 to {dimension - 1}, got {self.observed}.")
        if self.samples < 2 or self.draws < 1:
            raise ValueError(f"samples must be at least 2 and draws at least 1, got {self.samples} and {self.draws}.")
        if not (0 < self.sigma < math.inf and 0 <= self.tilt < math.inf and 0 <= self.apart < math.inf):
            raise ValueError(
                f"sigma must be above 0, tilt and apart at least 0, got {self.sigma}, {self.tilt}, {self.apart}."
            )
        if not 0 <= self.correlation < 1:
            raise ValueError(f"correlation must lie in [0, 1), got {self.correlation}.")

    def conditions(self) -> Iterator[Condition]:
        """The rows of the table. Methods that need the sampler's noise have no rows for deterministic samplers."""
        for case in self.cases:
            for method in self.methods:
                kind = None if method == "none" else method_class(method.partition("-")[0])
                for sampler in self.samplers:
                    if kind is not None and kind.needs_noise and sampler not in STOCHASTIC:
                        continue
                    scaled = kind is not None and kind.strength_is_energy
                    for strength in self.strengths if scaled else (1.0,):
                        for steps in sorted(set(self.steps)):
                            yield Condition(case, method, sampler, strength, steps)

    def run(self, folder: Path) -> dict[str, Any]:
        """Write cells/*.json, table.json, table.csv, table.md and errors.png; return the errors at the most steps."""
        from tqdm import tqdm

        from dreamsim_guidance.known_answers.exact_cell import measure
        from dreamsim_guidance.known_answers.exact_table import draw, remainders, write_csv, write_markdown

        rows = []
        for condition in tqdm(list(self.conditions()), desc="exact truth"):
            file = folder / "cells" / f"{condition.name.replace(' ', '_')}.json"
            if not file.is_file():
                write_json(file, {**asdict(condition), "exact": condition.exact, **measure(self, condition)})
            rows.append(json.loads(file.read_text(encoding="utf-8"), parse_constant=float))
        for row in rows:  # JSON has neither infinity nor NaN
            row.update({name: float(value or "nan") for name, value in row.items() if value in ("inf", "nan", None)})
        remaining = remainders(rows)
        write_json(folder / "table.json", rows)
        write_csv(folder / "table.csv", rows)
        write_markdown(folder / "table.md", rows, remaining)
        draw(folder / "errors.png", rows)
        return {"cells": len(rows), "left": remaining}
