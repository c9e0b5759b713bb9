"""The work of an inversion through your own StyleGAN: codes first, then the weights around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dreamsim_guidance.comparisons.own_stylegan import InvertStyleGAN
from dreamsim_guidance.data.scenes.drawing import picture_grid
from dreamsim_guidance.files.atomic import write_tensors, writing
from dreamsim_guidance.inversion import StyleGAN, Weights, invert, load_stylegan
from dreamsim_guidance.losses import MSE, SSIM
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.pocket import load_pocket
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device

__all__ = ["reconstruct"]


def reconstruct(config: InvertStyleGAN, folder: Path) -> dict[str, Any]:
    """Carry out `InvertStyleGAN.run`."""
    if not config.photos:
        raise ValueError("there is no photograph; give photos=face.png, several separated by commas.")
    folder.mkdir(parents=True, exist_ok=True)
    device = default_device()
    network: nn.Module = load_pocket("gan")
    options: dict[str, Any] = {}
    if config.network is not None and config.code is not None:
        network, options = load_stylegan(config.network, code=config.code), {"force_fp32": True}
    network.to(device)
    noisy = config.noise and any(name.endswith("noise_const") for name, _ in network.named_buffers())
    generator = StyleGAN(network, config.space, noisy, config.label, options=options)
    with torch.no_grad():
        leaves = generator.init(1, torch.Generator().manual_seed(config.seed))
        size = tuple(generator(**leaves).shape[-2:])
    photos = torch.cat([resize(load_image(path), size).clamp(0, 1) for path in config.photos]).to(device)
    loss = DreamSim(config.metric).to(device).target(photos) + config.mse * MSE(photos)
    judges = {"1 - ssim": SSIM(photos)}
    result = invert(loss, generator, steps=config.steps, batch=len(photos), judges=judges, seed=config.seed)
    result.save(folder / "inversion")
    rows = [photos, result.images]
    figures: dict[str, Any] = {"loss": result.loss.tolist(), "1 - ssim": result.judges["1 - ssim"].tolist()}
    if config.tuning:
        weights = Weights(generator, result.leaves, config.regularise, seed=config.seed)
        tuned = invert(loss, weights, steps=config.tuning, judges=judges, progress="tuning")
        # codes and histories are small, the network's weights are not: they are written once, by the network's own names
        with writing(folder / "tuned.safetensors") as temporary:
            state = {name.removeprefix("G."): w.cpu().contiguous() for name, w in tuned.leaves.items()}
            write_tensors(state, temporary)
        rows.append(tuned.images)
        figures["tuned"] = {"loss": tuned.loss.tolist(), "1 - ssim": tuned.judges["1 - ssim"].tolist()}
    save_image(picture_grid([row.clamp(0, 1).cpu() for row in rows], len(photos)), folder / "sheet.png")
    return figures
