"""The work of reconstructing a photograph: optimise the pixels, judge the result, and draw the pictures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.inversion.inverting import invert
from dreamsim_guidance.inversion.photograph import Reconstruction
from dreamsim_guidance.inversion.picture_loss import picture_loss, picture_metric
from dreamsim_guidance.inversion.pixels import Pixels
from dreamsim_guidance.inversion.result import Inversion
from dreamsim_guidance.inversion.sheet import draw, with_shorter_side
from dreamsim_guidance.losses import LPIPS, MSE, SSIM, Cosine, Loss, TotalVariation
from dreamsim_guidance.losses.shift_tolerant import has_shift_tolerant
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.held_out import without_last_branch
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device

log = logging.getLogger(__name__)

__all__ = ["reconstruct"]


def reconstruct(config: Reconstruction, folder: Path) -> dict[str, Any]:
    """Carry out `Reconstruction.run`; return the distances and the number of steps."""
    device = config.device or default_device()
    target = photograph("astronaut") if config.image is None else load_image(config.image)
    metric = picture_metric(config.metric, device)
    maps = metric.ensemble.spatial
    size, steps = config.size or (224 if maps else 64), config.steps or (150 if maps else 300)
    target = with_shorter_side(target, size).to(device)
    height, width = target.shape[-2:]
    optimised, judge = without_last_branch(metric) if config.held_out else (metric, None)
    following = picture_loss(optimised, target, config.seed, config.grids, config.draw)
    pixels = Pixels(height, width, noise=config.noise, generator=torch.Generator().manual_seed(config.seed)).to(device)
    start = pixels().detach()
    log.info(
        "%s at %d x %d on %s, optimised by %s", config.image or "astronaut", width, height, device, _names(optimised)
    )
    tv = config.tv if config.tv is not None else 0.05 if maps else 0.1
    rate = Cosine(config.lr, 0.0, steps=steps)
    optimum = invert(following + tv * TotalVariation(), pixels, steps=steps, lr=rate, progress="reconstructing")

    other = resize(photograph("chelsea"), (height, width)).to(device)
    candidates = {"before": start, "after": optimum.images, "another photograph": other}
    distances = _distances(candidates, target, metric, following, judge)
    save_image(target, folder / "target.png")
    save_image(optimum.images, folder / "result.png")
    _draw(folder / "reconstruction.png", target, start, optimum, distances, optimised)
    results = {"distances": distances, "steps": steps, "best_step": int(optimum.best_step)}
    history = {name: [round(float(v), 6) for v in values[:, 0]] for name, values in optimum.history.items()}
    timing = {"seconds": round(optimum.seconds, 2), "device": device}
    write_json(folder / "reconstruction.json", {**results, **timing, "history": history})
    log.info("%d steps in %.1f s", steps, optimum.seconds)
    return results


def _names(metric: DreamSim) -> str:
    return " + ".join(config.name for config in metric.ensemble.configs)


def _distances(
    candidates: dict[str, Tensor], target: Tensor, metric: DreamSim, following: Loss, judge: DreamSim | None
) -> dict[str, dict[str, Any]]:
    """The distance of every candidate from the target, by what was optimised and by held-out judges."""
    maps = metric.ensemble.spatial
    rows: dict[str, tuple[str, Any]] = {f"dreamsim of the {'maps' if maps else 'parts'}": ("optimised", following)}
    if judge is None:
        rows["dreamsim"] = ("optimised", metric.target(target))
    else:
        rows["dreamsim, all branches"] = ("optimised in part", metric.target(target))
        rows[f"dreamsim, {_names(judge)} only"] = ("held out", judge.target(target))
    if has_shift_tolerant() and min(target.shape[-2:]) >= 32:
        rows["ST-LPIPS"] = ("held out", LPIPS(target, network="shift-tolerant"))
    if min(target.shape[-2:]) >= 11:
        rows["1 - SSIM"] = ("held out", SSIM(target))
    rows["mse"] = ("held out", MSE(target))
    with torch.no_grad():
        return {
            name: {"role": role, **{candidate: float(loss(image)) for candidate, image in candidates.items()}}
            for name, (role, loss) in rows.items()
        }


def _draw(
    file: Path,
    target: Tensor,
    start: Tensor,
    optimum: Inversion,
    distances: dict[str, dict[str, Any]],
    optimised: DreamSim,
) -> None:
    """Draw photograph, start, result and the loss over the steps, side by side."""
    judged = next((name for name, row in distances.items() if row["role"] == "held out"), "mse")
    pictures = {
        "photograph": target,
        f"start, held-out distance {distances[judged]['before']:.3f}": start,
        f"result, held-out distance {distances[judged]['after']:.3f}": optimum.images,
    }
    curves = {name: values[:, 0] for name, values in optimum.history.items()}
    title = f"loss and its terms, best step {int(optimum.best_step)}"
    draw(file, pictures, curves, title, caption=f"optimised: {_names(optimised)}; held out: {judged}")
