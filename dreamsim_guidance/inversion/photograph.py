"""A photograph, reconstructed from noise by following the gradient of the metric to the pixels.

    min_x  mean_k d(crop_k x, crop_k photo) + tv TV(x)

One embedding does not pin an image: very different pictures share it. The embeddings of the whole and of its parts do,
so the picture and its overlapping crops are each compared with the same part of the photograph, some of them at a step.
The distance that is minimised becomes small in any case; whether the picture came out alike is judged by what was not
minimised: a branch of the metric that was left out, SSIM and MSE.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.files.atomic import write_json, writing
from dreamsim_guidance.inversion import Optimised, Pixels, optimise
from dreamsim_guidance.losses import MSE, SSIM, Loss, TotalVariation, grid
from dreamsim_guidance.metric.dreamsim import DreamSim, Target
from dreamsim_guidance.metric.ensemble import Ensemble
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device

__all__ = ["Parts", "Reconstruction"]

log = logging.getLogger("dreamsim_guidance.inversion.photograph")


@dataclass(frozen=True)
class Reconstruction:
    """Everything that was decided about a reconstruction."""

    image: Path | None = None
    """The photograph; by default the astronaut that scikit-image ships, which the pocket models never saw."""
    metric: str = "pocket"
    """pocket (shipped), ensemble, dino_vitb16, ... (published weights), or a model file (.safetensors)."""
    held_out: bool = True
    """Leave the metric's last branch out of the loss, to judge the result by it; a single branch is never left out."""
    size: int = 64
    """Shorter side of the reconstruction, in pixels."""
    steps: int = 300
    """Steps of Adam."""
    lr: float = 0.05
    """Step size of Adam at the start; it decays to 0 along a cosine."""
    grids: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Parts that are compared: n x n overlapping crops for each n; 1 is the whole picture."""
    draw: int = 32
    """How many of the parts a step looks at: the first (the whole, if `grids` begins with 1) and some others."""
    tv: float = 0.1
    """Weight of the total variation."""
    noise: float = 0.3
    """Strength of the noise at the start, on every level of the pyramid."""
    seed: int = 0
    """Seed of that noise and of the choice of parts."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def __post_init__(self) -> None:
        for name in ("size", "steps", "draw"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not self.grids or min(self.grids) < 1:
            raise ValueError(f"grids must be one or more numbers of at least 1, got {self.grids}.")
        for name in ("lr", "tv", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)}.")

    def run(self, folder: Path) -> dict[str, Any]:
        """Write reconstruction.png, reconstruction.json, target.png and result.png; return the numbers."""
        device = self.device or default_device()
        target = photograph("astronaut") if self.image is None else load_image(self.image)
        target = _fit(target, self.size).to(device)
        height, width = target.shape[-2:]
        metric = DreamSim(self.metric, device=device)
        optimised, judge = _split(metric) if self.held_out else (metric, None)
        parts = Parts(optimised, target, [box for n in self.grids for box in grid(n)], self.draw, self.seed)
        pixels = Pixels(height, width, noise=self.noise, generator=torch.Generator().manual_seed(self.seed)).to(device)
        start = pixels().detach()
        log.info("%s at %d x %d on %s, seen by %s", self.image or "astronaut", width, height, device, _names(optimised))
        found = optimise(parts + self.tv * TotalVariation(), pixels, self.steps, self.lr, progress="reconstructing")

        other = resize(photograph("chelsea"), (height, width)).to(device)
        candidates = {"before": start, "after": found.image, "another photograph": other}
        distances = _judge(candidates, target, metric, parts, judge)
        save_image(target, folder / "target.png")
        save_image(found.image, folder / "result.png")
        _draw(folder / "reconstruction.png", target, start, found, distances, optimised)
        results = {"distances": distances, "steps": self.steps, "best_step": int(found.best_step)}
        history = {name: [round(float(v), 6) for v in values[:, 0]] for name, values in found.history.items()}
        timing = {"seconds": round(found.seconds, 2), "device": device}
        write_json(folder / "reconstruction.json", {**results, **timing, "history": history})
        log.info("%d steps in %.1f s", self.steps, found.seconds)
        return results


class Parts(Loss):
    """Mean distance of parts of the images to the same parts of a reference, whose embeddings are kept.

    `boxes` are (top, left, bottom, right) as fractions; all parts go through the metric as one batch. `loss.at(step)`
    looks at `draw` of them, chosen by `seed` and `step`, the first one always.
    """

    name = "parts"
    directions: Tensor

    def __init__(
        self, metric: DreamSim, reference: Tensor, boxes: Sequence[tuple[float, ...]], draw: int, seed: int = 0
    ) -> None:
        super().__init__()
        if draw < 1:
            raise ValueError(f"draw must be at least 1, got {draw}.")
        self.metric, self.boxes, self.draw, self.seed = metric, tuple(boxes), draw, seed
        self.side = max(config.image_size for config in metric.ensemble.configs)
        self.register_buffer("directions", metric.target(self.cut(reference, range(len(boxes)))).directions)

    def cut(self, images: Tensor, chosen: Sequence[int]) -> Tensor:
        """The chosen parts of one image, each squashed to the square that the metric sees."""
        height, width = images.shape[-2:]
        squares = []
        for top, left, bottom, right in (self.boxes[k] for k in chosen):
            rows, columns = _span(top, bottom, height), _span(left, right, width)
            squares.append(resize(images[..., rows, columns], (self.side, self.side)))
        return torch.cat(squares)

    def forward(self, images: Tensor) -> Tensor:
        return self.mean_of(images, range(len(self.boxes)))

    def mean_of(self, images: Tensor, chosen: Sequence[int]) -> Tensor:
        target = Target(self.metric, self.directions[list(chosen)])
        return torch.stack([target(self.cut(image[None], chosen)).mean() for image in images])

    def at(self, step: int | float) -> Loss:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(step))
        others = 1 + torch.randperm(len(self.boxes) - 1, generator=generator)[: self.draw - 1]
        return Loss.of(partial(self.mean_of, chosen=[0, *others.tolist()]), self.name)


def _span(first: float, last: float, length: int) -> slice:
    start = min(round(first * length), length - 1)
    return slice(start, max(round(last * length), start + 1))


def _fit(image: Tensor, size: int) -> Tensor:
    """Shrunk (or enlarged) to `size` on the shorter side, aspect kept."""
    height, width = image.shape[-2:]
    scale = size / min(height, width)
    return resize(image, (round(height * scale), round(width * scale)))


def _split(metric: DreamSim) -> tuple[DreamSim, DreamSim | None]:
    """The metric without its last branch, and that branch alone; weights are shared."""
    branches = list(metric.fold().ensemble.branches)
    if len(branches) == 1 or metric.ensemble.head is not None:
        return metric, None
    return DreamSim(Ensemble(branches[:-1])), DreamSim(Ensemble(branches[-1:]))  # type: ignore[arg-type]


def _names(metric: DreamSim) -> str:
    return " + ".join(config.name for config in metric.ensemble.configs)


def _judge(
    candidates: dict[str, Tensor], target: Tensor, metric: DreamSim, parts: Loss, judge: DreamSim | None
) -> dict[str, dict[str, Any]]:
    """Every candidate's distance from the target, by what was optimised and by what was not."""
    rows: dict[str, tuple[str, Any]] = {"dreamsim of the parts": ("optimised", parts)}
    if judge is None:
        rows["dreamsim"] = ("optimised", metric.target(target))
    else:
        rows["dreamsim, all branches"] = ("optimised in part", metric.target(target))
        rows[f"dreamsim, {_names(judge)} only"] = ("held out", judge.target(target))
    if min(target.shape[-2:]) >= 11:
        rows["1 - SSIM"] = ("held out", SSIM(target))
    rows["MSE"] = ("held out", MSE(target))
    with torch.no_grad():
        return {
            name: {"role": role, **{which: float(loss(image)) for which, image in candidates.items()}}
            for name, (role, loss) in rows.items()
        }


def _draw(
    file: Path,
    target: Tensor,
    start: Tensor,
    found: Optimised,
    distances: dict[str, dict[str, Any]],
    optimised: DreamSim,
) -> None:
    """Photograph, start, result and the loss over the steps, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.25])
    judged = next((name for name, row in distances.items() if row["role"] == "held out"), "MSE")
    pictures = {
        "photograph": target,
        f"start, held-out distance {distances[judged]['before']:.3f}": start,
        f"result, held-out distance {distances[judged]['after']:.3f}": found.image,
    }
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture[0].detach().permute(1, 2, 0).float().cpu().clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    for name, values in found.history.items():
        axes[3].plot(values[:, 0].numpy(), label=name)
    axes[3].set_yscale("log")
    axes[3].set_xlabel("step")
    axes[3].set_title(f"loss and its terms, best step {int(found.best_step)}", fontsize=10)
    figure.supxlabel(f"optimised: {_names(optimised)}; held out: {judged}", fontsize=9)
    axes[3].legend(fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=120)
