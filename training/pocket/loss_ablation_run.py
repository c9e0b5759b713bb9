"""The work of comparing losses for the pocket autoencoder: train each, judge it on unseen scenes, draw curves and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.evaluation.samples.frechet import frechet_distance
from dreamsim_guidance.evaluation.samples.scene_judge import load_judge
from dreamsim_guidance.evaluation.statistics.intervals import paired_difference
from dreamsim_guidance.files.atomic import write_tensors, write_text, writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.loss import PairLoss
from dreamsim_guidance.losses import LPIPS, SSIM, DreamSimLoss, GradientBalance
from dreamsim_guidance.losses.pixel import psnr
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.held_out import without_last_branch
from dreamsim_guidance.pipelines.decoder import bounded
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.training.fit import fit
from dreamsim_guidance.training.pocket.autoencoder import AutoencoderLearner, PixelsAndEdges, autoencoder, reconstruct
from dreamsim_guidance.training.pocket.loss_ablation import AblateAutoencoderLoss

__all__ = ["ablate"]

log = logging.getLogger(__name__)

_SHOWN = 8
"""Pictures of the sheet."""


@dataclass(frozen=True)
class _Arm:
    """One loss: its name in the table, the weight of its perceptual term, and that term; None for no such term."""

    name: str
    weight: float = 0.0
    perceptual: PairLoss | None = None
    balanced: bool = False

    @property
    def key(self) -> str:
        return f"{self.name} {self.weight:g}" if self.perceptual is not None else self.name


def ablate(config: AblateAutoencoderLoss, folder: Path) -> dict[str, Any]:
    """Carry out `AblateAutoencoderLoss.run`."""
    optimised, branch = without_last_branch(DreamSim("pocket"))
    assert branch is not None
    judges: dict[str, PairLoss] = {"held-out branch": DreamSimLoss(branch), "1 - SSIM": SSIM()}
    lpips = None
    if config.lpips_weights is None:
        log.warning("lpips_weights is not given: LPIPS neither trains nor judges.")
    else:
        lpips = judges["LPIPS"] = LPIPS(network=config.lpips_weights)
    arms = _arms(config, DreamSimLoss(optimised), lpips)
    _, train = draw_pocket_scenes(config.scenes, config.size)
    _, test = draw_pocket_scenes(config.held_out, config.size, "test")
    cells: dict[str, list[dict[str, Tensor]]] = {arm.key: [] for arm in arms}
    for seed in config.seeds:
        for number, arm in enumerate(arms, 1):
            file = folder / "cells" / f"{arm.key}, seed {seed}.safetensors"
            if not file.is_file():
                log.info("seed %d, loss %d of %d: %s", seed, number, len(arms), arm.key)
                network = _trained(config, arm, train, seed, file.with_suffix(".pt"))
                with writing(file) as temporary:
                    write_tensors(_judged(network, test, judges), temporary)
                file.with_suffix(".pt").unlink()
            cells[arm.key].append(load_file(file))
    rows = [_row(arm, cells[arm.key], cells["L2"]) for arm in arms]
    _write_table(rows, folder / "table.md")
    _draw(rows, cells, folder / "curve.png")
    _write_sheet(config, cells, test, folder)
    return {"rows": rows, "scenes": config.held_out, "seeds": list(config.seeds)}


def _arms(config: AblateAutoencoderLoss, dreamsim: PairLoss, lpips: PairLoss | None) -> list[_Arm]:
    arms = [_Arm("L2"), _Arm("L2 + L1 + edges (shipped)")]
    arms += [_Arm("L2 + SSIM", weight, SSIM()) for weight in config.ssim]
    arms += [_Arm("L2 + LPIPS", weight, lpips) for weight in config.lpips if lpips is not None]
    arms += [_Arm("L2 + DreamSim", weight, dreamsim) for weight in config.dreamsim]
    return arms + [_Arm("L2 + DreamSim, balanced", share, dreamsim, balanced=True) for share in config.balanced]


class _Reconstruction(nn.Module):
    """8 (MSE + w P) of decoded images in [-1, 1]; with a balance, w P has w times the squared error's gradient."""

    def __init__(self, arm: _Arm, layer: nn.Parameter) -> None:
        super().__init__()
        self.perceptual, self.weight = arm.perceptual, arm.weight
        self.balance = GradientBalance(momentum=0.9, every=5) if arm.balanced else None
        self._layer = (layer,)  # in a tuple, where nn.Module does not find it: it belongs to the autoencoder

    def forward(self, decoded: Tensor, images: Tensor) -> Tensor:
        pixels = F.mse_loss(decoded, images) / 4  # of images in [0, 1]
        if self.perceptual is None:
            return 8 * pixels
        perceptual = self.perceptual(bounded(decoded / 2 + 0.5), images / 2 + 0.5).mean()
        factor = 1.0 if self.balance is None else self.balance(pixels, perceptual, self._layer[0])
        return 8 * (pixels + self.weight * factor * perceptual)


def _trained(
    config: AblateAutoencoderLoss, arm: _Arm, pictures: UInt8[Tensor, "n 3 h w"], seed: int, checkpoint: Path
) -> Any:
    torch.manual_seed(seed)
    network: Any = autoencoder(config.autoencoder, config.size)
    shipped = arm.perceptual is None and arm.name != "L2"
    layer = network.decoder.conv_out.weight
    reconstruction = PixelsAndEdges(config.autoencoder.edges) if shipped else _Reconstruction(arm, layer)
    learner = AutoencoderLearner(network, pictures, config.autoencoder, reconstruction)
    made_of = f"{config.autoencoder} {config.size} {len(pictures)} {arm.key}"
    fit(learner, config.autoencoder.schedule, seed, checkpoint, f"{arm.key}, seed {seed}", made_of=made_of)
    return network.requires_grad_(False).eval()


@torch.no_grad()
def _judged(network: Any, pictures: UInt8[Tensor, "n 3 h w"], judges: Mapping[str, PairLoss]) -> dict[str, Tensor]:
    """Values of every judge by scene, the Frechet distance of all, and the first reconstructions in 8 bits."""
    judge = load_judge()
    values: dict[str, list[Tensor]] = {name: [] for name in ("PSNR", *judges)}
    features: list[list[Tensor]] = [[], []]
    shown: list[Tensor] = []
    for part in pictures.split(50):
        images = part.float() / 255
        decoded = reconstruct(network, images)
        values["PSNR"].append(psnr(decoded, images))
        for name, measure in judges.items():
            values[name].append(measure(decoded, images))
        for collected, batch in zip(features, (decoded, images), strict=True):
            collected.append(judge.features(batch))
        shown.append((decoded * 255).round().byte())
    result = {name: torch.cat(parts) for name, parts in values.items()}
    result["Frechet"] = torch.tensor(frechet_distance(torch.cat(features[0]), torch.cat(features[1])))
    return {**result, "shown": torch.cat(shown)[:_SHOWN].contiguous()}


def _row(arm: _Arm, cells: Sequence[dict[str, Tensor]], baseline: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """Means over seeds and scenes, and for the judges of single scenes the paired difference from L2 with its interval."""
    row: dict[str, Any] = {"loss": arm.name, "weight": arm.weight}
    for name in cells[0]:
        if name == "shown":
            continue
        runs = [cell[name].double().numpy() for cell in cells]
        row[name] = float(np.mean(runs))
        row[f"{name} by seed"] = [float(run.mean()) for run in runs]
        if runs[0].ndim:
            others = [cell[name].double().numpy() for cell in baseline]
            row[f"{name}, from L2"] = asdict(paired_difference(np.mean(runs, 0), np.mean(others, 0)))
    return row


def _write_table(rows: Sequence[dict[str, Any]], file: Path) -> None:
    names = [name for name in ("PSNR", "held-out branch", "LPIPS", "1 - SSIM", "Frechet") if name in rows[0]]
    heads = {"PSNR": "PSNR, dB", "held-out branch": "held-out branch, from L2"}
    lines = []
    for row in rows:
        cells = []
        for name in names:
            text = f"{row[name]:.{2 if name in ('PSNR', 'Frechet') else 4}f}"
            if name == "held-out branch":
                interval = row[f"{name}, from L2"]
                text += f", {interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"
            cells.append(text)
        lines.append([row["loss"], f"{row['weight']:g}" if row["weight"] else "", *cells])
    write_text(file, markdown_table(["loss", "weight", *(heads.get(name, name) for name in names)], lines) + "\n")


def _draw(rows: Sequence[dict[str, Any]], cells: Mapping[str, Sequence[Any]], file: Path) -> None:
    """Draw the distances of judges against PSNR, a curve through the weights of each loss, with the seeds as points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in ("held-out branch", "LPIPS") if name in rows[0]]
    figure = Figure(figsize=(5.2 * len(names), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses = list(dict.fromkeys(row["loss"] for row in rows))
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for number, loss in enumerate(losses):
            curve = [row for row in rows if row["loss"] == loss]
            start = rows[:1] if curve[0]["weight"] and "balanced" not in loss else []
            colour, marker = (f"C{number}", "o-") if number else ("black", "*")
            points = [(row["PSNR"], row[name]) for row in [*start, *curve]]
            style: dict[str, Any] = {"markersize": 5 if number else 11, "zorder": 2 if number else 3, "linewidth": 1.2}
            axis.plot(*zip(*points, strict=True), marker, color=colour, label=loss, **style)
            for row in curve:
                axis.plot(row["PSNR by seed"], row[f"{name} by seed"], ".", color=colour, markersize=3, alpha=0.6)
                if row["weight"]:
                    text, place = f"{row['weight']:g}", (row["PSNR"], row[name])
                    axis.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)
        axis.set_xlabel("PSNR on unseen scenes, dB")
        axis.set_title(
            {"LPIPS": "LPIPS (shift-tolerant)"}.get(name, "DreamSim, the branch that took no part"), fontsize=10
        )
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8)
    figure.supxlabel("numbers: weight of the perceptual term; small points: single seeds", fontsize=8)
    with writing(file) as temporary:
        figure.savefig(temporary, dpi=110)


def _write_sheet(
    config: AblateAutoencoderLoss, cells: Mapping[str, Sequence[dict[str, Tensor]]], test: Tensor, folder: Path
) -> None:
    rows: dict[str, list[Path]] = {}
    for name, pictures in {"scene": test[:_SHOWN], **{key: cell[0]["shown"] for key, cell in cells.items()}}.items():
        rows[name] = [folder / "pictures" / name / f"{number}.png" for number in range(len(pictures))]
        for picture, file in zip(pictures, rows[name], strict=True):
            save_image(picture[None].float() / 255, file)
    with writing(folder / "sheet.png") as temporary:
        contact_sheet(rows, {}).save(temporary)
