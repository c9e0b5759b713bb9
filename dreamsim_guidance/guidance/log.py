"""The record of a guided run, step by step, and the judges' values of its result.

A loss that guides can always be lowered. Whether the image came closer to the reference is shown by judges, which take no part
in the guidance: where the loss falls and a judge's distance rises, part of the gain is adversarial.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dreamsim_guidance.files.atomic import write_json, writing
from dreamsim_guidance.pipelines.host_numbers import HostCopy

__all__ = ["Entry", "Log"]


@dataclass(frozen=True)
class Entry:
    """One step of a guided run. Lists have one value for each sample of the batch.

    On a GPU the numbers arrive some time after the step. Reading one waits until it has arrived.
    """

    index: int
    """Number of the step, from 0."""
    timestep: float
    """As the scheduler counts them."""
    noise: float
    """Relative noise level, s / sqrt(a^2 + s^2), in [0, 1]."""
    guided: bool
    """Whether the method made the step; else the scheduler made it alone."""
    distance: list[float]
    """The loss of the decoded clean estimate, before this step's move."""
    gradient_norm: list[float]
    """Euclidean norm of the loss's gradient in the clean estimate."""
    move: list[float]
    """Root mean square of the clean estimate's move, in units of the noise level."""
    skipped: int
    """Number of samples of which a gradient was not finite and was left out."""
    seconds: float
    """Duration of the step on the host, without the denoiser; a GPU may still be at work."""
    judges: dict[str, list[float]] = field(default_factory=dict)
    """The judges' values of the decoded clean estimate, by name; in the first entry of a run only."""

    @classmethod
    def on_its_way(cls, **values: Any) -> Entry:
        """An entry whose fields may be of type `HostCopy`, which are read when they are first asked for."""
        entry = object.__new__(cls)
        vars(entry).update(values)
        return entry

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if isinstance(value, HostCopy):
            value = value.tolist()
        elif name == "judges" and any(isinstance(values, HostCopy) for values in value.values()):
            value = {judge: x.tolist() if isinstance(x, HostCopy) else x for judge, x in value.items()}
        else:
            return value
        object.__getattribute__(self, "__dict__")[name] = value
        return value

    def __reduce__(self) -> Any:  # a copy and a pickle hold numbers
        return type(self), tuple(getattr(self, f.name) for f in fields(self))


@dataclass
class Log:
    """The last guided call of a pipeline: its steps and its result.

    entries: one for each step in the window, in order.
    baseline: the log of the same call without guidance, to compare with.
    final: distance and judges of the images that the pipeline returned.
    """

    entries: list[Entry] = field(default_factory=list)
    baseline: Log | None = None
    final: dict[str, list[float]] = field(default_factory=dict)
    """"distance", and each judge by name, one value for each sample."""

    @property
    def distance(self) -> list[float]:
        """The final distances, or those of the last clean estimate if the pipeline decoded nothing. Empty before a run."""
        return self.final.get("distance") or (self.entries[-1].distance if self.entries else [])

    @property
    def gradients(self) -> int:
        """Number of gradients that guided the run, one for each sample and guided step."""
        return sum(len(entry.distance) for entry in self.entries if entry.guided)

    @property
    def skipped(self) -> int:
        """Number of these gradients that were not finite and were left out."""
        return sum(entry.skipped for entry in self.entries)

    @property
    def parted(self) -> list[str]:
        """Names of the judges whose distance is worse than the baseline's while the guiding loss is better.

        Worse by more than chance: by two standard errors of the mean difference, or by 2 % for fewer than 4 samples.
        """
        before = {} if self.baseline is None else self.baseline.final
        if not (before and self.final) or not _mean(self.final["distance"]) < _mean(before["distance"]):
            return []
        return [name for name, values in before.items() if _worse(values, self.final.get(name, values))]

    def summary(self) -> str:
        """The result in one line: distance, judges, gradients that were left out, and judges that disagree."""
        if not self.entries:
            return "nothing was guided yet"
        now = self.final or {"distance": self.distance}
        before = {} if self.baseline is None else self.baseline.final
        phrases = [
            f"{name} {_mean(before[name]):.4f} -> {_mean(values):.4f}"
            if name in before
            else f"{name} {_mean(values):.4f}"
            for name, values in now.items()
        ]
        if self.skipped:
            were = "was" if self.gradients == 1 else "were"
            phrases.append(f"{self.skipped} of {self.gradients} gradients {were} not finite and left out")
        if self.parted:
            phrases.append(f"the guide and {', '.join(self.parted)} have parted: part of the gain is adversarial")
        return "; ".join(phrases)

    def to_dict(self) -> dict[str, Any]:
        """The log as plain data for JSON."""
        return {"steps": [asdict(entry) for entry in self.entries], "final": dict(self.final), "parted": self.parted}

    def save(self, path: str | Path) -> None:
        """Write the log as JSON."""
        write_json(Path(path), self.to_dict())

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw distance, gradient and move over the steps.

        path: where to write the figure, if anywhere; the suffix decides the format.
        Returns matplotlib's figure. Raises `ValueError` for an empty log.
        """
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
