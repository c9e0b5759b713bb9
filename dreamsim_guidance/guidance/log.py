"""What happened during a guided run, step by step, and what others say of the result.

A guide can always be pleased; whether the picture came closer to the reference as well is for judges to say that took no
part in the guidance. Where the guide's distance falls and a judge's rises, the two have parted: the gain is adversarial.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import write_json, writing

__all__ = ["Entry", "Log"]


@dataclass(frozen=True)
class Entry:
    """One step. Lists have one value for each image of the batch."""

    index: int
    timestep: float
    noise: float
    """Relative noise level, s / sqrt(a^2 + s^2)."""
    guided: bool
    distance: list[float]
    """The guide's distance of the decoded clean estimate, before this step's move."""
    gradient_norm: list[float]
    move: list[float]
    """Root mean square of the clean estimate's move, in units of the noise level."""
    skipped: int
    """Images whose gradient was not finite: they were not guided in this step."""
    seconds: float
    judges: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Log:
    """The entries of the last run inside a guide, and its end."""

    entries: list[Entry] = field(default_factory=list)
    baseline: Log | None = None
    """Of the same call without guidance."""
    final: dict[str, list[float]] = field(default_factory=dict)
    """Of the images that the pipeline returned: "distance", and each judge by name."""

    @property
    def distance(self) -> list[float]:
        """The final distances; of the last clean estimate where the pipeline decoded nothing. Empty before a run."""
        return self.final.get("distance") or (self.entries[-1].distance if self.entries else [])

    @property
    def skipped(self) -> int:
        """Gradients that were not finite, over the run."""
        return sum(entry.skipped for entry in self.entries)

    @property
    def parted(self) -> list[str]:
        """Judges to whom the result is worse than the baseline's while the guide finds it better.

        By more than chance: two standard errors of the images' mean difference; 2 % where there are too few images to tell.
        """
        before = {} if self.baseline is None else self.baseline.final
        if not (before and self.final) or not _mean(self.final["distance"]) < _mean(before["distance"]):
            return []
        return [name for name, was in before.items() if _worse(was, self.final.get(name, was))]

    def summary(self) -> str:
        """The end in a few words: distance, judges, what was skipped, and which judges disagree."""
        if not self.entries:
            return "nothing was guided yet"
        now = self.final or {"distance": self.distance}
        before = {} if self.baseline is None else self.baseline.final
        words = [
            f"{name} {_mean(before[name]):.4f} -> {_mean(values):.4f}"
            if name in before
            else f"{name} {_mean(values):.4f}"
            for name, values in now.items()
        ]
        if self.skipped:
            words.append(f"{self.skipped} gradients were not finite and were left out")
        if self.parted:
            words.append(f"the guide and {', '.join(self.parted)} have parted: part of the gain is adversarial")
        return "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"steps": [asdict(entry) for entry in self.entries], "final": dict(self.final), "parted": self.parted}

    def save(self, path: str | Path) -> None:
        """Write the log as JSON."""
        write_json(Path(path), self.to_dict())

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw distance, gradient and move over the steps; returns matplotlib's figure, and writes it where `path` says."""
        from matplotlib.figure import Figure

        if not self.entries:
            raise ValueError("there is nothing to plot: run the pipeline inside the guide first.")
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        axes = figure.subplots(1, 3)
        steps = [entry.index for entry in self.entries]
        axes[0].plot(steps, [entry.distance for entry in self.entries])
        if self.final.get("distance"):
            axes[0].plot([steps[-1] + 1] * len(self.final["distance"]), self.final["distance"], "k.", label="delivered")
            axes[0].legend(frameon=False)
        axes[0].set_title("distance of the clean estimate")
        axes[1].plot(steps, [entry.gradient_norm for entry in self.entries])
        axes[1].set_title("gradient norm")
        axes[2].plot(steps, [entry.move for entry in self.entries])
        axes[2].set_title("move / noise level")
        for axis in axes:
            axis.set_xlabel("step")
        if path is not None:
            with writing(Path(path)) as part:
                figure.savefig(part, format=Path(path).suffix.lstrip(".") or "png", dpi=120)
        return figure


def _worse(before: list[float], after: list[float]) -> bool:
    differences = [b - a for a, b in zip(before, after, strict=False)]
    if len(differences) < 4:
        return _mean(differences) > 0.02 * abs(_mean(before))
    mean = _mean(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return mean > 2 * math.sqrt(variance / len(differences))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
