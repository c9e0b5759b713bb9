"""The work of inverting photographs through an autoencoder: optimise, judge, and draw the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamsim_guidance.data.photographs import HELD_OUT, photograph
from dreamsim_guidance.evaluation.samples.contact_sheet import contact_sheet
from dreamsim_guidance.files.atomic import write_text, writing
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.inversion.autoencoder import InvertVAE
from dreamsim_guidance.inversion.inverting import invert
from dreamsim_guidance.inversion.latents import Latents
from dreamsim_guidance.inversion.picture_loss import picture_metric
from dreamsim_guidance.inversion.result import Inversion
from dreamsim_guidance.inversion.tiny_autoencoder import read_tiny_autoencoder
from dreamsim_guidance.loss import Loss
from dreamsim_guidance.losses import LPIPS, MSE, SSIM, MultiCrop
from dreamsim_guidance.losses.shift_tolerant import has_shift_tolerant, installed_shift_tolerant
from dreamsim_guidance.metric.held_out import without_last_branch
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device

log = logging.getLogger(__name__)

__all__ = ["invert_vae"]


def invert_vae(config: InvertVAE, folder: Path) -> dict[str, Any]:
    """Carry out `InvertVAE.run`."""
    device = config.device or default_device()
    images = [load_image(path) for path in config.images] or [photograph(name) for name in HELD_OUT]
    targets = torch.cat([_square(image, config.size) for image in images]).to(device)
    latents = Latents(_autoencoder(config, device), targets)
    optimised, branch = without_last_branch(picture_metric(config.metric, device))
    parts: Loss = optimised.target(targets) if optimised.ensemble.spatial else MultiCrop(optimised, targets)
    losses: dict[str, Loss] = {"mse": MSE(targets), "dreamsim": parts}
    losses["mse + dreamsim"] = MSE(targets) + config.dreamsim * parts.named("dreamsim")
    judges: dict[str, Loss] = {"mse": MSE(targets), "1 - SSIM": SSIM(targets)}
    judges["dreamsim" if branch is None else "held-out branch"] = (branch or optimised).target(targets)
    if config.lpips_weights is not None or has_shift_tolerant():
        network = config.lpips_weights or installed_shift_tolerant()
        losses["lpips"] = judges["LPIPS"] = LPIPS(targets, network=network).to(device)
    elif "lpips" in config.losses:
        log.warning(
            'LPIPS is neither optimised nor a judge: pip install "dreamsim-guidance[losses]", or give lpips_weights.'
        )
    with torch.no_grad():
        floor = latents(latents.init).clamp(-1, 1) / 2 + 0.5
    rows = [{"start": "encoder", "optimised": None, **_judged(floor, judges)}]
    shown = {"photograph": targets, "encoder and decoder": floor}
    for start in config.starts:
        init = latents.init if start == "encoder" else latents.centre_like(latents.init)
        for name in [name for name in config.losses if name in losses]:
            place = folder / f"{name}, from {start}"
            if (place / "result.safetensors").is_file():
                result = Inversion.load(place)
            else:
                label = f"{name}, from {start}"
                result = invert(losses[name], latents, init, config.steps, lr=config.lr, progress=label)
                result.save(place)
            pictures = result.images.to(device).clamp(0, 1)
            rows.append({"start": start, "optimised": name, **_judged(pictures, judges), "seconds": result.seconds})
            shown[f"{name}, from {start}"] = pictures
    _write_table(rows, folder / "table.md")
    _write_sheet(shown, rows, folder)
    return {"rows": rows, "steps": config.steps, "size": config.size, "pictures": len(targets)}


def _autoencoder(config: InvertVAE, device: str) -> nn.Module:
    if any(Path(config.model).glob("*_encoder.*")):
        return read_tiny_autoencoder(config.model).to(device)
    from diffusers import AutoModel

    vae: Any = AutoModel.from_pretrained(config.model, subfolder=config.subfolder, torch_dtype=torch.float32)
    return vae.requires_grad_(False).eval().to(device)


def _square(image: Tensor, size: int) -> Tensor:
    """The central square of an image, resized to `size`, in [0, 1]."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[..., top : top + side, left : left + side], (size, size)).clamp(0, 1)


@torch.no_grad()
def _judged(images: Tensor, judges: Mapping[str, Loss]) -> dict[str, Any]:
    """The value of every judge for every picture, and the PSNR in dB."""
    values = {name: judge(images).tolist() for name, judge in judges.items()}
    psnr = [-10 * torch.tensor(mse).log10().item() for mse in values.pop("mse")]
    return {"PSNR": psnr, **values}


def _write_table(rows: list[dict[str, Any]], file: Path) -> None:
    """Write means over the pictures; a judge's cell is in parentheses where the judge itself was optimised."""
    optimised = {"PSNR": ("mse", "mse + dreamsim"), "LPIPS": ("lpips",), "dreamsim": ("dreamsim", "mse + dreamsim")}
    names = [name for name in rows[0] if name not in ("start", "optimised")]
    lines = []
    for row in rows:
        cells = []
        for name in names:
            text = f"{sum(row[name]) / len(row[name]):.{2 if name == 'PSNR' else 5}f}"
            cells.append(f"({text})" if row["optimised"] in optimised.get(name, ()) else text)
        lines.append([row["start"], row["optimised"] or "nothing: encoder and decoder", *cells])
    write_text(file, markdown_table(["start", "optimised", *names], lines) + "\n")


def _write_sheet(shown: Mapping[str, Tensor], rows: list[dict[str, Any]], folder: Path) -> None:
    files: dict[str, list[Path]] = {}
    for name, pictures in shown.items():
        files[name] = [folder / "pictures" / name / f"{number}.png" for number in range(len(pictures))]
        for picture, file in zip(pictures, files[name], strict=True):
            save_image(picture[None], file)
    names = list(shown)[1:]
    notes = {name: [f"{value:.1f} dB" for value in row["PSNR"]] for name, row in zip(names, rows, strict=True)}
    with writing(folder / "sheet.png") as temporary:
        contact_sheet(files, notes).save(temporary)
