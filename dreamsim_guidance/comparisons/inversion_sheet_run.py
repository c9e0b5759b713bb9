"""The work of an inversion sheet: build the generator, invert, judge the pictures, and draw them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreamsim_guidance.comparisons.sheet_run import pocket_reference
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.inversion import (
    RENO,
    Latents,
    Noise,
    Pixels,
    Preview,
    StyleGAN,
    invert,
    invert_trajectory,
    load_stylegan,
)
from dreamsim_guidance.inversion.picture_loss import picture_loss, picture_metric
from dreamsim_guidance.inversion.sheet import draw, with_shorter_side
from dreamsim_guidance.losses import MSE, SSIM, TotalVariation
from dreamsim_guidance.losses.pixel import psnr
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.metric.held_out import without_last_branch
from dreamsim_guidance.preprocess import load_image, resize, save_image
from dreamsim_guidance.processes import default_device
from dreamsim_guidance.types import AnyImage

if TYPE_CHECKING:
    from dreamsim_guidance.comparisons.inversion_sheet import InversionSheet

__all__ = ["make"]

log = logging.getLogger(__name__)


@dataclass
class _Pictures:
    """What an inversion gave: pictures by name, each (1, 3, h, w), the result last; and curves of the way there."""

    target: AnyImage
    pictures: dict[str, AnyImage]
    curves: dict[str, Tensor]
    title: str
    x_label: str = "step"
    numbers: dict[str, Any] = field(default_factory=dict)


def make(config: InversionSheet, folder: Path) -> dict[str, Any]:
    """Carry out `InversionSheet.run`: write the sheet, the pictures and the numbers into `folder`."""
    device = config.device or default_device()
    if config.image is not None:
        image = load_image(config.image)
    elif config.model == "pocket" and config.through != "pixels":
        image = pocket_reference()
    else:
        image = photograph("astronaut")
    drawn = config.model == "pocket" and config.through != "pixels"
    metric = picture_metric(config.metric or ("pocket" if drawn else None), device)
    optimised, judge = without_last_branch(metric) if config.held_out else (metric, None)
    if config.through == "trajectory":
        found = _trajectory(config, image, device)
    else:
        found = _descent(_with_defaults(config, optimised), image, optimised, device, folder)
    distances = _distances(found, optimised, judge, config.through == "trajectory")
    for name, picture in {"target": found.target, **found.pictures}.items():
        save_image(picture, folder / f"{name.replace(' ', '_')}.png")
    psnr = distances["psnr (dB)"]
    titles = {name: f"{name}, {psnr[name]:.1f} dB" for name in found.pictures}
    shown = {"target": found.target, **{titles[name]: picture for name, picture in found.pictures.items()}}
    caption = "held out: " + ", ".join(name for name, row in distances.items() if row["role"] == "held out")
    draw(folder / "sheet.png", shown, found.curves, found.title, found.x_label, caption)
    results = {"distances": distances, **found.numbers}
    curves = {name: [float(f"{v:.6g}") for v in values.tolist()] for name, values in found.curves.items()}
    write_json(folder / "inversion.json", {**results, "device": device, "curves": curves})
    return results


def _descent(config: InversionSheet, image: AnyImage, metric: DreamSim, device: str, folder: Path) -> _Pictures:
    """Invert by gradients, through pixels, an autoencoder, a GAN or a pipeline's noise."""
    generator, target, floor = _generator(config, image, device)
    start = folder / "start.png"  # a file, for a run that goes on from its checkpoint

    def watch(step: int, images: Tensor, losses: Tensor) -> None:
        if step == 0 and floor is None:  # the start of an autoencoder is its floor
            save_image(images, start)
        if preview is not None:
            preview(step, images, losses)

    preview = Preview(folder / "animation.gif", every=5) if config.animation else None
    loss = picture_loss(metric, target, config.seed) if config.through == "pixels" else metric.target(target)
    if config.mse:
        loss = loss + config.mse * MSE(target)
    if config.tv:
        loss = loss + config.tv * TotalVariation()
    options: dict[str, Any] = {
        "steps": config.steps,
        "lr": config.lr,
        "optimiser": config.optimiser,
        "search": config.search or (16 if config.through == "noise" else 256),
        "restarts": config.restarts,
    }
    found = invert(
        loss,
        generator,
        **(RENO if config.reno else options),
        seed=config.seed,
        chunk=8 if config.through == "noise" else 32,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_every=50,
        callback=watch,
        progress="inverting",
    )
    found.save(folder / "result")
    before = {"start": load_image(start).to(device)} if floor is None else {"floor": floor}
    pictures = {**before, "result": found.images}
    curves = {name: values[:, 0] for name, values in found.history.items()}
    numbers = {"best_step": int(found.best_step), "loss": float(found.loss), "seconds": round(found.seconds, 2)}
    title = f"loss and its terms, best step {int(found.best_step)}"
    return _Pictures(target, pictures, curves, title, numbers=numbers)


def _with_defaults(config: InversionSheet, metric: DreamSim) -> InversionSheet:
    """The settings with the defaults of a descent filled in."""
    pixels, maps = config.through == "pixels", metric.ensemble.spatial
    side = (224 if maps else 64) if pixels else 64 if config.model == "pocket" else 512
    steps = 50 if config.through == "noise" else 150 if pixels and maps else 300
    tv = (0.05 if maps else 0.1) if pixels else 0.0
    defaults: dict[str, Any] = {"size": side, "steps": steps, "mse": 0.0 if pixels else 1.0, "tv": tv}
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})


def _generator(config: InversionSheet, image: AnyImage, device: str) -> tuple[Any, AnyImage, AnyImage | None]:
    """The generator, the target in the size of its images, and the floor, where there is one."""
    assert config.size is not None  # see _with_defaults
    if config.through == "pixels":
        target = with_shorter_side(image, config.size).to(device)
        random = torch.Generator().manual_seed(config.seed)
        return Pixels(target.shape[-2], target.shape[-1], generator=random).to(device), target, None
    if config.through == "vae":
        target = with_shorter_side(image, config.size, multiple=16).to(device)
        latents = Latents(_autoencoder(config.model, device), target)
        with torch.no_grad():
            floor = (latents(latents.init) + 1) / 2
        return latents, target, floor.clamp(0, 1)
    generator: Any = _gan(config, device) if config.through == "gan" else _noise(config, device)
    with torch.no_grad():
        leaves = generator.init(1, torch.Generator().manual_seed(config.seed))
        drawn = generator(**leaves) if isinstance(leaves, Mapping) else generator(leaves)
    return generator, _cropped(image, drawn.shape[-2], drawn.shape[-1]).to(device), None


def _autoencoder(model: str, device: str) -> Any:
    """The autoencoder of a pipeline, or the one in a folder that holds nothing else."""
    if model == "pocket":
        from dreamsim_guidance.pocket import load_pocket

        return load_pocket("latents").vae.to(device)
    folder = Path(model).expanduser()
    alone = (folder / "config.json").is_file()
    source = str(folder) if alone else named_models.find(model).source
    named_models.check_reachable(source, "config.json" if alone else "model_index.json")
    from diffusers import AutoModel

    vae = AutoModel.from_pretrained(source, subfolder=None if alone else "vae")
    return vae.requires_grad_(False).eval().to(device)


def _gan(config: InversionSheet, device: str) -> StyleGAN:
    if config.model == "pocket":
        from dreamsim_guidance.pocket import load_pocket

        network: Any = load_pocket("gan")
    elif config.code is None:
        raise ValueError("a StyleGAN .pkl needs NVIDIA's code beside it: --code FOLDER, your checkout of stylegan3.")
    else:
        network = load_stylegan(config.model, code=config.code)
    return StyleGAN(network.to(device), space=config.space)


def _noise(config: InversionSheet, device: str) -> Noise:
    model = _pipeline(config)
    # half precision loses the small gradients of noise; the range of bfloat16 does not
    pipe = named_models.load(model, device, "float32" if device == "cpu" else "bfloat16")
    steps = config.sampler_steps or min(model.steps or 4, 4)
    return Noise(pipe, prompt=config.prompt, num_inference_steps=steps, guidance_scale=config.cfg)


def _pipeline(config: InversionSheet) -> named_models.Model:
    """The model by its name; "pocket" is the one with an autoencoder, with or without a prompt."""
    model = named_models.find("pocket-latents" if config.model == "pocket" else config.model)
    if not model.pocket:
        named_models.check_reachable(model.source)
    return model


def _trajectory(config: InversionSheet, image: AnyImage, device: str) -> _Pictures:
    """Reverse the sampler, and sample again; plain DDIM inversion beside it."""
    model = _pipeline(config)
    pipe = named_models.load(model, device)
    size = config.size or model.size or 64
    target = _cropped(image, size, size).to(device)
    call: dict[str, Any] = {"prompt": config.prompt, "num_inference_steps": config.sampler_steps or model.steps or 50}
    call["guidance_scale"] = config.cfg
    exact = invert_trajectory(pipe, target, **call)
    plain = invert_trajectory(pipe, target, method="ddim", **call)
    again = exact.reconstruct()
    assert exact.round_trip is not None
    pictures = {"floor": exact.round_trip, "plain inversion": plain.reconstruct().images, "result": again.images}
    curves = {"solved": exact.residuals[0], "plain": plain.residuals[0]}
    numbers = {
        "converged": bool(exact.converged),
        "latent_error": float(again.latent_error),
        "evaluations": exact.evaluations,
    }
    return _Pictures(target, pictures, curves, "residual of each step", "step, noisiest first", numbers)


def _cropped(image: AnyImage, height: int, width: int) -> AnyImage:
    """The middle of the image in this aspect ratio, resized."""
    scale = min(image.shape[-2] / height, image.shape[-1] / width)
    rows, columns = round(height * scale), round(width * scale)
    top, left = (image.shape[-2] - rows) // 2, (image.shape[-1] - columns) // 2
    return resize(image[..., top : top + rows, left : left + columns], (height, width)).clamp(0, 1)


def _distances(
    found: _Pictures, metric: DreamSim, judge: DreamSim | None, all_held_out: bool
) -> dict[str, dict[str, Any]]:
    """The distance of every picture from the target, by what was optimised and by held-out judges."""
    target = found.target
    optimised = "held out" if all_held_out else "optimised"
    rows: dict[str, tuple[str, Any]] = {"dreamsim": (optimised, metric.target(target))}
    if judge is not None:
        rows[f"dreamsim, {judge.ensemble.configs[0].name} only"] = ("held out", judge.target(target))
    if min(target.shape[-2:]) >= 11:
        rows["1 - SSIM"] = ("held out", SSIM(target))
    rows["psnr (dB)"] = ("pixels", lambda x: psnr(x, target))
    with torch.no_grad():
        return {
            name: {"role": role, **{key: float(loss(x.clamp(0, 1))) for key, x in found.pictures.items()}}
            for name, (role, loss) in rows.items()
        }
