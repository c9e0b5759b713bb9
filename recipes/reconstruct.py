"""A photograph, reconstructed from noise by following the gradient of the metric to the pixels.

    min_x  mean_k d(crop_k x, crop_k photo) + tv TV(x)

One embedding does not pin an image: very different pictures share it. The embeddings of the whole and of its parts do,
so that the picture and its overlapping crops are each compared with the same part of the photograph. The distance that
is minimised becomes small in any case; whether the picture came out alike is judged by what was not minimised.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.ensemble import Ensemble
from dreamsim_guidance.inversion import Optimised, Pixels, optimise
from dreamsim_guidance.losses import L2, SSIM, Loss, MultiCrop, TotalVariation, grid
from dreamsim_guidance.metric import DreamSim
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.recipes.registry import recipe
from dreamsim_guidance.recipes.run_folder import write_json, writing

__all__ = ["Reconstruction", "photograph", "reconstruct_photo"]

log = logging.getLogger("dreamsim_guidance.recipes.reconstruct")


@recipe
def reconstruct_photo() -> Reconstruction:
    """Reconstruct a photograph from noise through the metric's gradient.

    NUMBERS
    """
    return Reconstruction()


@dataclass(frozen=True)
class Reconstruction:
    """Everything that was decided about a reconstruction."""

    image: Path | None = None
    """The photograph; by default the portrait that scikit-image ships (astronaut.png)."""
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
    grids: tuple[int, ...] = (1, 2, 4)
    """Parts that are compared: n x n overlapping crops for each n; 1 is the whole picture."""
    tv: float = 0.01
    """Weight of the total variation."""
    noise: float = 0.3
    """Strength of the noise at the start, on every level of the pyramid."""
    seed: int = 0
    """Seed of that noise; nothing else here is random."""
    device: str | None = None
    """cpu, cuda, ...; by default an accelerator if there is one."""

    def run(self, folder: Path) -> dict[str, Any]:
        """Write reconstruction.png, reconstruction.json, target.png and result.png; return the numbers."""
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        file = photograph("astronaut") if self.image is None else self.image
        target = _fit(load_image(file), self.size).to(device)
        metric = DreamSim(self.metric, device=device)
        optimised, judge = _split(metric) if self.held_out else (metric, None)

        crops = MultiCrop(optimised, target, [box for n in self.grids for box in grid(n)])
        pixels = Pixels(*target.shape[-2:], noise=self.noise, generator=torch.Generator().manual_seed(self.seed))
        pixels.to(device)
        start = pixels().detach()
        height, width = target.shape[-2:]
        log.info("%s at %d x %d on %s, seen by %s", file, width, height, device, _names(optimised))
        found = optimise(crops + self.tv * TotalVariation(), pixels, self.steps, self.lr, progress="reconstructing")

        other = load_image(photograph("coffee" if file.name != "coffee.png" else "astronaut"))
        candidates = {
            "before": start,
            "after": found.image,
            "another photograph": resize(other, (height, width)).to(device),
        }
        distances = _judge(candidates, target, metric, crops, judge)
        save_image(target, folder / "target.png")
        save_image(found.image, folder / "result.png")
        _draw(folder / "reconstruction.png", target, start, found, distances)
        results = {
            "distances": distances,
            "image": str(file),
            "best_step": int(found.best_step),
            "steps": self.steps,
        }
        history = {name: [round(float(v), 6) for v in values[:, 0]] for name, values in found.history.items()}
        timing = {"seconds": round(found.seconds, 2), "device": device}
        write_json(folder / "reconstruction.json", {**results, **timing, "history": history})
        log.info("%d steps in %.1f s", self.steps, found.seconds)
        return results


def photograph(name: str) -> Path:
    """A photograph that the installed scikit-image brings along: astronaut, chelsea, coffee. Nothing is downloaded."""
    spec = find_spec("skimage")
    folder = Path(next(iter(spec.submodule_search_locations or ["."]))) if spec else Path()
    file = folder / "data" / f"{name}.png"
    if not file.is_file():
        raise FileNotFoundError(
            f"scikit-image's photograph '{file}' is not installed; give one of your own, --image FILE."
        )
    return file


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
    candidates: dict[str, Tensor], target: Tensor, metric: DreamSim, crops: Loss, judge: DreamSim | None
) -> dict[str, dict[str, Any]]:
    """Every candidate's distance from the target, by what was optimised and by what was not."""
    rows: dict[str, tuple[str, Any]] = {"dreamsim of the crops": ("optimised", crops)}
    if judge is None:
        rows["dreamsim"] = ("optimised", metric.target(target))
    else:
        rows["dreamsim, all branches"] = ("optimised in part", metric.target(target))
        rows[f"dreamsim, {_names(judge)} only"] = ("held out", judge.target(target))
    if min(target.shape[-2:]) >= 11:
        rows["1 - SSIM"] = ("held out", SSIM(target))
    rows["L2"] = ("held out", L2(target))
    with torch.no_grad():
        return {
            name: {"role": role, **{which: float(loss(image)) for which, image in candidates.items()}}
            for name, (role, loss) in rows.items()
        }


def _draw(file: Path, target: Tensor, start: Tensor, found: Optimised, distances: dict[str, dict[str, Any]]) -> None:
    """Photograph, start, result and the loss over the steps, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.25])
    judged = next((name for name, row in distances.items() if row["role"] == "held out"), "L2")
    pictures = {
        "photograph": target,
        f"start\n{judged}: {distances[judged]['before']:.3f}": start,
        f"result, step {int(found.best_step)}\n{judged}: {distances[judged]['after']:.3f}": found.image,
    }
    for axis, (title, picture) in zip(axes, pictures.items(), strict=False):
        axis.imshow(picture[0].detach().permute(1, 2, 0).float().cpu().clamp(0, 1).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    for name, values in found.history.items():
        axes[3].plot(values[:, 0].numpy(), label=name)
    axes[3].set_yscale("log")
    axes[3].set_xlabel("step")
    axes[3].set_title("loss and its terms", fontsize=10)
    axes[3].legend(fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=120)
